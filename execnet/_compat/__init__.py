"""Names of execnet 2.1 in `execnet.gateway_base` that few programs ask for: made when they do."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def made(name: str, gateway_base: "ModuleType") -> object:
    """What the name stands for in that module, which there is one of for each core that is in use."""
    # lazy: each for those who ask for it
    if name == "_Serializer":
        from execnet._compat.serializer import serializer_class

        return serializer_class(gateway_base)
    from execnet._compat import abstract

    return getattr(abstract, name)
