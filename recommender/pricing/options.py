"""Purchase options and what they cost relative to on-demand.

Commitment rates are arithmetic on the on-demand price, measured on published price tables: they are estimates
(`price_quality` = estimated) and an imported price table replaces any of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from recommender.errors import UnknownNameError, did_you_mean

Kind = Literal["on-demand", "spot", "reserved", "savings-plan-ec2", "savings-plan-compute"]
Payment = Literal["no-upfront", "partial-upfront", "all-upfront"]

# Rate of a 1-year standard reservation without upfront payment over on-demand; the first pattern that matches counts.
STANDARD_1Y_NO_UPFRONT: tuple[tuple[str, float], ...] = (
    (r"hpc7g", 0.787),
    (r"x1e?|x2.*|p3dn|p4de?|u-.*|u7.*|trn1n?", 0.616),
    (r"i4i|i4g", 0.649),
    (r"i3en|is4gen|im4gn|p2|p3", 0.68),
    (r"d2", 0.583),
    (r"[cmr]6(i|a|id|in|idn)|[cmr]7(i|a|g|gd|gn|iz|i-flex)|[cmrx]8.*", 0.661),
    (r".*", 0.63),
)
PAYMENT_FACTOR_1Y = {"no-upfront": 1.0, "partial-upfront": 0.9524, "all-upfront": 0.9333}
PAYMENT_FACTOR_3Y = {"no-upfront": 1.0, "partial-upfront": 0.9259, "all-upfront": 0.8704}
# Share of the whole term that is paid at its start.
UPFRONT_SHARE = {"no-upfront": 0.0, "partial-upfront": 0.5, "all-upfront": 1.0}
THREE_YEAR_FACTOR = 0.68
THREE_YEAR_FACTOR_MEMORY = 0.52
CONVERTIBLE_FACTOR = 1.15
COMPUTE_SAVINGS_PLAN_1Y = 0.81


@dataclass(frozen=True)
class PurchaseOption:
    """One way to pay for an instance."""

    kind: Kind
    """on-demand, spot, reserved, savings-plan-ec2 or savings-plan-compute."""
    term_years: int = 0
    """Length of the commitment in years; 0 when there is none."""
    payment: Payment = "no-upfront"
    """How much of a commitment is paid at its start."""
    convertible: bool = False
    """A reservation that may be exchanged for another instance type."""

    @property
    def committed(self) -> bool:
        """True when the whole term is paid for, used or not."""
        return self.term_years > 0

    @property
    def name(self) -> str:
        """The name in tables and on the command line, e.g. `reserved-1y-no-upfront`."""
        if not self.committed:
            return self.kind
        return f"{self.kind}-{self.term_years}y-{self.payment}" + ("-convertible" if self.convertible else "")


def _all_options() -> tuple[PurchaseOption, ...]:
    payments: tuple[Payment, ...] = ("no-upfront", "partial-upfront", "all-upfront")
    kinds: tuple[tuple[Kind, bool], ...] = (
        ("reserved", False),
        ("reserved", True),
        ("savings-plan-ec2", False),
        ("savings-plan-compute", False),
    )
    committed = [PurchaseOption(k, years, p, c) for k, c in kinds for years in (1, 3) for p in payments]
    return (PurchaseOption("on-demand"), PurchaseOption("spot"), *committed)


ALL_OPTIONS = _all_options()
BY_NAME = {option.name: option for option in ALL_OPTIONS}
DEFAULT_OPTIONS = tuple(
    BY_NAME[n] for n in ("on-demand", "spot", "savings-plan-compute-1y-no-upfront", "reserved-1y-no-upfront")
)


def parse_purchase(text: str) -> tuple[PurchaseOption, ...]:
    """Read a comma-separated list of purchase options.

    `all` is every option; a name that begins several, such as `reserved` or `savings-plan-ec2-1y`, is all of them.

    Raises
    ------
    UnknownNameError
        For a name that is none of these.
    """
    chosen: dict[str, PurchaseOption] = {}
    for word in (w.strip().lower() for w in text.split(",")):
        found = [o for o in ALL_OPTIONS if word in ("all", o.name)]
        found = found or [o for o in ALL_OPTIONS if word and o.name.startswith(word + "-")]
        if not found:
            known = ["all", *BY_NAME, "reserved", "savings-plan"]
            raise UnknownNameError(
                f"unknown purchase option {word!r}{did_you_mean(word, known)} (known: all, on-demand, spot, reserved[-1y|-3y"
                "[-no-upfront|-partial-upfront|-all-upfront[-convertible]]], savings-plan-ec2|compute[-…])"
            )
        chosen.update({o.name: o for o in found})
    return tuple(o for o in ALL_OPTIONS if o.name in chosen)


def standard_rate(families: Iterable[str]) -> npt.NDArray[np.float64]:
    """Rate of a 1-year standard no-upfront reservation over on-demand, per family.

    Source: ratios measured on published AWS price tables (estimates, not quotes).
    """
    return np.array([next(r for p, r in STANDARD_1Y_NO_UPFRONT if re.fullmatch(p, f)) for f in families], dtype=float)


def commitment_rate(option: PurchaseOption, families: Sequence[str]) -> npt.NDArray[np.float64]:
    """Effective hourly rate of a commitment over the on-demand price, upfront payments spread over the term.

    rate = base · term · payment · convertible, where base is the standard 1-year no-upfront rate of the family
    (an EC2 Instance savings plan costs what a standard reservation does) or 0.81 for a Compute savings plan;
    term = 0.68 for three years (0.52 for x1, x2 and u-); payment = 0.9524 / 0.9333 in a 1-year and 0.9259 / 0.8704
    in a 3-year term for partial / all upfront; convertible = 1.15.

    Returns
    -------
    rates, shape (len(families),), in (0, 1.15].
    """
    if not option.committed:
        raise ValueError(f"{option.name} is no commitment")
    if option.kind == "savings-plan-compute":
        base = np.full(len(families), COMPUTE_SAVINGS_PLAN_1Y)
    else:
        base = standard_rate(families)
    if option.term_years == 3:
        memory = np.array([re.fullmatch(r"x1e?|x2.*|u-.*|u7.*", f) is not None for f in families], dtype=bool)
        base = base * np.where(memory, THREE_YEAR_FACTOR_MEMORY, THREE_YEAR_FACTOR)
    factor = (PAYMENT_FACTOR_1Y if option.term_years == 1 else PAYMENT_FACTOR_3Y)[option.payment]
    return base * factor * (CONVERTIBLE_FACTOR if option.convertible else 1.0)
