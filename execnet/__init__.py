"""The face of execnet: its names, each loaded when it is first touched, so that the import costs next to nothing."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._report.report import report as report
    from ._version import __version__
    from .gateway import Gateway
    from .gateway_base import (
        Channel,
        DataFormatError,
        DumpError,
        LoadError,
        RemoteError,
        TimeoutError,
        dump,
        dumps,
        load,
        loads,
    )
    from .gateway_base import GatewayDied as GatewayDied
    from .gateway_bootstrap import HostNotFound
    from .multi import Group, MultiChannel, default_group, makegateway, set_execmodel
    from .reducers import reduce_common_types as reduce_common_types
    from .reducers import register_reducer as register_reducer
    from .rsync import RSync
    from .xspec import XSpec

__all__ = [
    "Channel",
    "DataFormatError",
    "DumpError",
    "Gateway",
    "Group",
    "HostNotFound",
    "LoadError",
    "MultiChannel",
    "RSync",
    "RemoteError",
    "TimeoutError",
    "XSpec",
    "__version__",
    "default_group",
    "dump",
    "dumps",
    "load",
    "loads",
    "makegateway",
    "set_execmodel",
]

_HOME = {
    "__version__": "_version",
    "Channel": "gateway_base",
    "DataFormatError": "gateway_base",
    "DumpError": "gateway_base",
    "Gateway": "gateway",
    "GatewayDied": "gateway_base",
    "Group": "multi",
    "HostNotFound": "gateway_bootstrap",
    "LoadError": "gateway_base",
    "MultiChannel": "multi",
    "RSync": "rsync",
    "RemoteError": "gateway_base",
    "TimeoutError": "gateway_base",
    "XSpec": "xspec",
    "default_group": "multi",
    "dump": "gateway_base",
    "dumps": "gateway_base",
    "load": "gateway_base",
    "loads": "gateway_base",
    "makegateway": "multi",
    "reduce_common_types": "reducers",
    "register_reducer": "reducers",
    "report": "_report.report",
    "set_execmodel": "multi",
}
_MODULES = (
    "_version",
    "gateway",
    "gateway_base",
    "gateway_bootstrap",
    "gateway_io",
    "multi",
    "rsync",
    "rsync_remote",
    "xspec",
)


def __getattr__(name: str) -> object:
    # Called once per name: what it finds stays in the module's namespace.
    home = _HOME.get(name, name if name in _MODULES else None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # importlib.import_module would be an import more.
    module = __import__(f"{__name__}.{home}", fromlist=[home])
    value = module if home == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> "list[str]":  # quoted: a far Python 3.6 looks here for the C core
    return sorted({*globals(), *__all__, *_MODULES})
