"""The README's tables, from the JSON under benchmarks/results/: ``python -m benchmarks.tables``."""

import json
from typing import Any

from benchmarks.timing import RESULTS


def read(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Environment and rows of a results file."""
    content = json.loads((RESULTS / f"{name}.json").read_text())
    return content["environment"], content["rows"]


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def algorithms(rows: list[dict[str, Any]]) -> None:
    print("| chain, 100,000 steps | BlackJAX | parsample, check included | gain | step costs known | gain |")
    print("|---|---|---|---|---|---|")
    for row in (row for row in rows if row["table"] == "algorithms"):
        blackjax, cold, warm = (row["seconds"][name]["median"] for name in ("blackjax", "cold", "warm"))
        print(
            f"| {row['chain']} | {milliseconds(blackjax)} | {milliseconds(cold)} | {row['speedup']:.1f}x "
            f"| {milliseconds(warm)} | {row['speedup_warm']:.1f}x |"
        )


def models(rows: list[dict[str, Any]]) -> None:
    print("| model, one chain of 100,000 draws | LLE | verdict | sequential | auto, check included | gain |")
    print("|---|---|---|---|---|---|")
    for row in (row for row in rows if row["table"] == "models"):
        verdict = "parallel" if row["parallel"] else "sequential"
        times = (milliseconds(row["seconds"][method]) for method in ("sequential", "auto"))
        print(f"| {row['model']} | {row['lle']:+.2f} | {verdict} | {' | '.join(times)} | {row['speedup']:.2f}x |")


def work(rows: list[dict[str, Any]]) -> None:
    print("| in blocks, 100,000 steps | evaluations per step | largest defect | status |")
    print("|---|---|---|---|")
    for row in (row for row in rows if row["table"] == "work"):
        print(f"| {row['chain']} | {row['evals_per_step']:.2f} | {row['defect']:.1e} | {row['status']} |")


def main() -> None:
    for path in sorted(RESULTS.glob("core_*.json")):
        environment, rows = read(path.stem)
        print(f"\n{path.stem}: {environment['device']}, {environment['dtype']}, jax {environment['versions']['jax']}\n")
        for table in (algorithms, models, work):
            table(rows)
            print()


if __name__ == "__main__":
    main()
