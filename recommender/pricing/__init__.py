"""Purchase options: from runtime, usage and price to USD per run."""

from recommender.pricing.cost import HOURS_PER_MONTH, Usage
from recommender.pricing.offers import PRICE_QUALITIES, Offers, OptionPrices, price_option
from recommender.pricing.options import ALL_OPTIONS, BY_NAME, DEFAULT_OPTIONS, PurchaseOption, parse_purchase

__all__ = [
    "ALL_OPTIONS",
    "BY_NAME",
    "DEFAULT_OPTIONS",
    "HOURS_PER_MONTH",
    "PRICE_QUALITIES",
    "Offers",
    "OptionPrices",
    "PurchaseOption",
    "Usage",
    "parse_purchase",
    "price_option",
]
