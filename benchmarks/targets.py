"""What was aimed at on two CPU cores, against what group "reference" measured; and why, where it was missed."""

from typing import NamedTuple

from benchmarks.suite import Row


class Target(NamedTuple):
    """One aim.

    Attributes
    ----------
    chain
        Beginning of the title of a row.
    seconds
        The most that ``method="auto"`` may take, compiled; None: measured against `gain`.
    gain
        The least ratio of the sequential evaluation's time to it, by dtype; None: any.
    why
        Where it is missed, what stands in the way.
    """

    chain: str
    seconds: float | None
    gain: dict[str, float] | None
    why: str

    def asked(self, dtype: str) -> str | None:
        """In words; None if nothing is, of this dtype."""
        if self.seconds is not None:
            return f"{1000 * self.seconds:.0f} ms"
        return f"{self.gain[dtype]:g}x sequential" if self.gain and dtype in self.gain else None

    def found(self, row: Row, dtype: str) -> tuple[str, bool]:
        """What was measured, in words, and whether it will do."""
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
        "2,048 steps are few blocks of a chain that takes some hundred steps to forget, and a check costs as much as "
        "the run",
    ),
    Target("logistic 569 x 11", None, {"float32": 4, "float64": 4}, "two cores: see the distance to the limit"),
    Target(
        "logistic 4000 x 40",
        None,
        {"float32": 8, "float64": 3},
        "two cores: blocks take half the time of one batch of all steps (the distance to the limit), and products of "
        "the step-by-step chain use both cores too",
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
