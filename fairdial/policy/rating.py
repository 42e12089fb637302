"""Seconds to money: increments, tariffs, the charge of a call, and what a credit affords.

Money is an integer of micros: a million to one unit of the currency, never a float. A charge is made
once for a whole call, from its total seconds, as an exact fraction that is rounded up to the next micro;
nothing else here rounds, except `format_micros` for people to read. Up, so that a call that has a price
never costs nothing, however short it is; it costs less than a millionth of a unit too much.

Seconds come in as metered (CLAUSES.md, reading rules). Leaves to `cards.py` which tariff a number has, and
to the caller whether a call is rated at all, and which of its seconds an allowance covered.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass

MICROS_PER_UNIT = 1_000_000
_DECIMALS = 6
MOST_MICROS = 10**15
"""The largest amount in a tariff. A day at this rate, surcharge and all, still fits the 64 bits of a ledger's
integer."""
_UNIT_DIGITS = len(str(MOST_MICROS // MICROS_PER_UNIT))
LONGEST_INCREMENT_S = 3600
_S_PER_MIN = 60

_AMOUNT = re.compile(r"([0-9]+)(?:\.([0-9]+))?")
_INCREMENT = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")

# ISO 4217: currencies in use, by the digits of their minor unit; funds, metals and test codes left out.
_DIGITS = {
    code: digits
    for digits, codes in {
        0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
        2: "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
        "CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG "
        "HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU "
        "MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR "
        "SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED "
        "VES WST XCD XCG YER ZAR ZMW ZWG",
        3: "BHD IQD JOD KWD LYD OMR TND",
    }.items()
    for code in codes.split()
}


@dataclass(frozen=True, slots=True)
class Increment:
    """How seconds are billed: the first stretch whole, then whole steps. "60/60", "30/6", "1/1"."""

    first_s: int = 1
    next_s: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.first_s <= LONGEST_INCREMENT_S and 1 <= self.next_s <= LONGEST_INCREMENT_S):
            raise ValueError(
                f"increment {self.first_s}/{self.next_s} is out of range: "
                f"write 1 to {LONGEST_INCREMENT_S} seconds on each side of the stroke"
            )

    def __str__(self) -> str:
        return f"{self.first_s}/{self.next_s}"

    @classmethod
    def parse(cls, text: str) -> "Increment":
        """The increment in a text such as "30/6". Raises ValueError with the cure."""
        match = _INCREMENT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is not an increment: write the first and the next seconds, such as 60/60 or 30/6"
            )
        return cls(int(match[1]), int(match[2]))

    def billed_s(self, used_s: int) -> int:
        """The seconds billed for `used_s` seconds; 0 for 0. Never fewer than were used."""
        if used_s <= 0:
            return 0
        if used_s <= self.first_s:
            return self.first_s
        return self.first_s + -(-(used_s - self.first_s) // self.next_s) * self.next_s


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a call costs.

    rate_per_min_micros: price of a billed minute; a billed second is a sixtieth of it.
    connect_fee_micros: owed once for each answered call, so again on each re-dial (K4).
    minimum_micros: the least that an answered call costs in fee and rate together.
    surcharge_per_min_micros: on every minute of a call, inside or past the allowance (S5). It counts the seconds
        as metered, without increments, and comes on top of the minimum.
    """

    rate_per_min_micros: int
    connect_fee_micros: int = 0
    increment: Increment = Increment()
    minimum_micros: int = 0
    surcharge_per_min_micros: int = 0

    def __post_init__(self) -> None:
        for name in (
            "rate_per_min_micros",
            "connect_fee_micros",
            "minimum_micros",
            "surcharge_per_min_micros",
        ):
            value = getattr(self, name)
            if not 0 <= value <= MOST_MICROS:
                raise ValueError(f"{name} {value} must be at least 0 and at most {MOST_MICROS}")


def charge_micros(tariff: Tariff, used_s: int) -> int:
    """The charge of a call that no allowance covers: on credit, or dialled after the allowance was used up.

    0 for a call that was never answered (`used_s` 0). Raises ValueError for negative seconds. Parts of a call
    that fall into several periods are added up first: the charge of two halves is not the charge of the whole.
    """
    return _charge_micros(tariff, used_s, used_s, opens=True)


def overage_charge_micros(tariff: Tariff, overage_s: int, *, used_s: int, began_included: bool) -> int:
    """The charge of a call of `used_s` seconds of which `overage_s` lie past the allowance.

    began_included: the allowance covered the call's first second. Such a call owes the rate from the
    second that passed the allowance (R3), billed by the increments as a stretch of its own, but neither
    connection fee nor minimum: it was not set up at this price. A call dialled when the allowance was used up owes
    them as any other, also where its later part falls into a new period and is covered there. The surcharge
    counts all of `used_s`. Never more than `charge_micros(tariff, used_s)`.

    Raises ValueError where the three contradict each other.
    """
    contradictory = used_s > 0 and overage_s == (used_s if began_included else 0)
    if not 0 <= overage_s <= used_s or contradictory:
        raise ValueError(
            f"{overage_s} s of overage cannot be in a call of {used_s} s that "
            f"{'began' if began_included else 'did not begin'} inside the allowance"
        )
    return _charge_micros(tariff, overage_s, used_s, opens=not began_included)


def reserve_micros(tariff: Tariff, granted_s: int, *, included_s: int = 0) -> int:
    """What to reserve so that no end of the call within `granted_s` costs more.

    included_s: how many of the first seconds are held in an allowance. A charge never falls as a call
    grows, so this is the charge of the longest call. A renewed grant reserves the difference.
    """
    if included_s <= 0 or granted_s == 0:
        return charge_micros(tariff, granted_s)
    overage_s = max(0, granted_s - included_s)
    return overage_charge_micros(tariff, overage_s, used_s=granted_s, began_included=True)


def affordable_s(tariff: Tariff, credit_micros: int, longest_s: int, *, included_s: int = 0) -> int:
    """The most seconds up to `longest_s` whose reserve fits into `credit_micros`.

    0 if not even the first second does, which costs the connection fee and the first increment. What costs
    nothing needs no credit, so an account in debt keeps its free and included seconds. included_s: as for
    `reserve_micros`.
    """

    def reserve_of(used_s: int) -> int:
        return reserve_micros(tariff, used_s, included_s=included_s)

    if longest_s > 0 and reserve_of(longest_s) <= credit_micros:
        return longest_s
    # The reserve never falls as the call grows, so halving finds the edge.
    return bisect_right(range(1, longest_s + 1), max(0, credit_micros), key=reserve_of)


def _charge_micros(tariff: Tariff, rated_s: int, used_s: int, *, opens: bool) -> int:
    """The one place where money is rounded. opens: the call owes connection fee and minimum."""
    if used_s < 0:
        raise ValueError(f"a call cannot have used {used_s} s: seconds begin at 0")
    if used_s == 0:
        return 0
    sixtieths = tariff.rate_per_min_micros * tariff.increment.billed_s(rated_s)
    if opens:
        sixtieths += tariff.connect_fee_micros * _S_PER_MIN
        sixtieths = max(sixtieths, tariff.minimum_micros * _S_PER_MIN)
    sixtieths += tariff.surcharge_per_min_micros * used_s
    return -(-sixtieths // _S_PER_MIN)


def currency_digits(currency: str) -> int:
    """The digits after the point in which this currency is written (ISO 4217). Raises ValueError."""
    digits = _DIGITS.get(currency)
    if digits is None:
        raise ValueError(f"currency {currency!r} is not an ISO 4217 code in use: write it like EUR or JPY")
    return digits


def parse_micros(text: str) -> int:
    """The amount in an exact decimal text such as "0.0125". Raises ValueError with the cure."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not an amount: write plain digits with a point, such as 0.0125, "
            "without sign, exponent, space, comma or currency"
        )
    whole, decimals = match[1], match[2] or ""
    if len(decimals) > _DECIMALS:
        raise ValueError(f"{text!r} has {len(decimals)} decimals: write {_DECIMALS} at most")
    if len(whole.lstrip("0")) <= _UNIT_DIGITS:  # a longer one is never read as an integer
        micros = int(whole + decimals.ljust(_DECIMALS, "0"))
        if micros <= MOST_MICROS:
            return micros
    raise ValueError(f"{text[:40]!r} is too large: write {MOST_MICROS // MICROS_PER_UNIT} at most")


def decimal_text(micros: int) -> str:
    """The amount as an exact decimal text without a currency, for files and JSON: "0.0125", "12", "-0.5".

    `parse_micros` reads it back where it is not negative.
    """
    whole, rest = divmod(abs(micros), MICROS_PER_UNIT)
    decimals = f"{rest:0{_DECIMALS}}".rstrip("0")
    return f"{'-' if micros < 0 else ''}{whole}{'.' if decimals else ''}{decimals}"


def format_micros(micros: int, currency: str) -> str:
    """The amount as people read it, in the currency's own digits: "12.35 EUR", "12 JPY", "-0.50 EUR".

    Half a digit is rounded away from zero. For display only: never reckon with what it shows. Raises ValueError
    for an unknown currency.
    """
    digits = currency_digits(currency)
    step = 10 ** (_DECIMALS - digits)
    shown = (abs(micros) + step // 2) // step
    whole, rest = divmod(shown, 10**digits)
    sign = "-" if micros < 0 and shown else ""
    return f"{sign}{whole}{f'.{rest:0{digits}}' if digits else ''} {currency}"
