"""Targets on two CPU cores, against the measurements of group "reference"; and the reason for each miss."""

from typing import NamedTuple

from benchmarks.suite import Row


class Target(NamedTuple):
    """One target.

    Attributes
    ----------
    chain
        Beginning of the title of a row.
    seconds
        Largest time of ``method="auto"``, without compilation; None: `gain` is the target.
    gain
        Smallest speed-up of ``method="auto"`` over sequential evaluation, by dtype; None: any.
    why
        Reason for a miss.
    """

    chain: str
    seconds: float | None
    gain: dict[str, float] | None
    why: str

    def asked(self, dtype: str) -> str | None:
        """The target as text; None if there is none for this dtype."""
        if self.seconds is not None:
            return f"{1000 * self.seconds:.0f} ms"
        return f"{self.gain[dtype]:g}x sequential" if self.gain and dtype in self.gain else None

    def found(self, row: Row, dtype: str) -> tuple[str, bool]:
        """The measurement as text, and whether it reaches the target."""
        auto, baseline = (row["runs"][run]["seconds"]["median"] for run in ("auto", _baseline(row)))
        if self.seconds is not None:
            return f"{1000 * auto:.3g} ms", auto <= self.seconds
        return f"{baseline / auto:.2g}x", baseline / auto >= (self.gain or {})[dtype]


TARGETS = (
    Target("banana", 0.010, None, "the solve takes 6 ms; pilot and plan the rest"),
    Target("mixture", None, {"float32": 1, "float64": 1}, ""),
    Target(
        "logistic 1000 x 25",
        None,
        {"float32": 3},
        "the chain takes some hundred steps to forget its start, so 2,048 steps make few blocks; and a check costs as "
        "much as the run",
    ),
    Target("logistic 569 x 11", None, {"float32": 4, "float64": 4}, "two cores: see the distance to the limit"),
    Target(
        "logistic 4000 x 40",
        None,
        {"float32": 8, "float64": 3},
        "two cores: blocks take half the time of one batch of all steps (the distance to the limit), and matrix "
        "products of the step-by-step chain use both cores too",
    ),
)


def _baseline(row: Row) -> str:
    return "sequential" if "sequential" in row["runs"] else "blackjax"


def table(rows: list[Row], dtype: str) -> list[list[str]]:
    """Chain, target, measured, and why it was missed."""
    body = []
    for target in TARGETS:
        asked = target.asked(dtype)
        for row in rows:
            if asked and row["title"].startswith(target.chain) and "auto" in row["runs"]:
                found, met = target.found(row, dtype)
                body.append([row["title"], asked, found, "yes" if met else f"no: {target.why}"])
    return body
