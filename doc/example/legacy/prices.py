"""A library that never left Python 2: there 7 / 2 is 3, and dicts have has_key()."""

PRICES = {"nut": 7, "bolt": 12}


def half_price(name):
    if not PRICES.has_key(name):
        raise LookupError("no price for " + name)
    return PRICES[name] / 2
