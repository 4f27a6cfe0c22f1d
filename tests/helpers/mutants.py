"""Faults put into the core on purpose: the default tests must notice every one of them.

    python tests/helpers/mutants.py            # all, in a copy of this directory: some minutes
    python tests/helpers/mutants.py 3 17       # these two

Each fault is a change of one place. It is caught if the named tests, which are part of the default run, fail.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

# pytest's exit status if tests have run and some have failed; others mean that they could not run.
FAILED = 1


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes
    ----------
    fault
        What is wrong.
    file
        Module of the package.
    old, new
        What is replaced, found once in the file, and by what.
    tests
        Test files of which one must fail.
    """

    fault: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


SEGMENTS, LANES, NEWTON = "lanes/segments.py", "kernels/kernel_lanes.py", "solver/newton.py"

MUTANTS = (
    Mutant(
        "blocks take the keys of one step later",
        SEGMENTS,
        "first_steps = run.num_steps_done + block_size",
        "first_steps = run.num_steps_done + 1 + block_size",
        ("lanes/test_segments.py", "samplers/test_chain_run.py"),
    ),
    Mutant(
        "the last block is never compared with the end of the one before it",
        SEGMENTS,
        "        self.jumps.append(jumps)\n",
        "        self.jumps.append(jumps)\n        met[-1] = True\n",
        ("lanes/test_segments.py",),
    ),
    Mutant(
        "a lane that stopped early continues from the middle of its block",
        SEGMENTS,
        "self.ends = result.state if self.ends is None else where_lanes(has_new_end, result.state, self.ends)",
        "self.ends = result.state",
        ("lanes/test_segments.py",),
    ),
    Mutant(
        "blocks restart from the ends of the sweep before the last",
        SEGMENTS,
        "        self.incoming = self.layout.incoming_states(self.run, self.ends)\n",
        "        present = self.layout.incoming_states(self.run, self.ends)\n"
        "        self.incoming, self.stale = getattr(self, 'stale', present), present\n",
        ("lanes/test_segments.py",),
    ),
    Mutant(
        "the exact part of a stalled segment counts one block too many",
        SEGMENTS,
        "return self.num_blocks if exact.all() else int(np.argmin(exact))",
        "return self.num_blocks if exact.all() else int(np.argmin(exact)) + 1",
        ("lanes/test_segments.py",),
    ),
    Mutant(
        "the certificate leaves out jumps between blocks",
        SEGMENTS,
        "defect=max(self.defect, float(np.max(self.jumps[-1][met], initial=0))),",
        "defect=self.defect,",
        ("lanes/test_segments.py", "samplers/test_chain_run.py"),
    ),
    Mutant(
        "all lanes stop as soon as one has met its old path",
        "lanes/program.py",
        "request.may_stop_early & met.all(), distance",
        "request.may_stop_early & met.any(), distance",
        ("lanes/test_segments.py",),
    ),
    Mutant(
        "the old path is compared after it was overwritten",
        "lanes/program.py",
        "distance, met = dynamics.met(parameters, request.atol, tuple(new_row), old_row)",
        "distance, met = dynamics.met(parameters, request.atol, tuple(new_row), tuple(new_row))",
        ("lanes/test_segments.py",),
    ),
    Mutant(
        "a join is accepted within a thousandth of a standard deviation",
        LANES,
        "return distance, (distance <= atol) & ((atol > 0) | (new[1].lp == old[1].lp))",
        "return distance, distance <= atol + 1e-3",
        ("kernels/test_kernel_lanes.py", "lanes/test_segments.py"),
    ),
    Mutant(
        "states join although their cached log densities differ",
        LANES,
        "same = np.all([(a == b).reshape(len(a), -1).all(-1) for a, b in pairs], axis=0)",
        "same = distance == 0",
        ("kernels/test_kernel_lanes.py",),
    ),
    Mutant(
        "the multishift move takes the lattice point on the wrong side",
        "chain/multishift.py",
        "jnp.ceil(position / width - 0.5 - u)",
        "jnp.floor(position / width - 0.5 - u)",
        ("chain/test_multishift.py",),
    ),
    Mutant(
        "the multishift lattice lacks the half-width of its layer",
        "chain/multishift.py",
        "jnp.ceil(position / width - 0.5 - u)",
        "jnp.ceil(position / width - u)",
        ("chain/test_multishift.py",),
    ),
    Mutant(
        "a log density that is not a number is accepted",
        "chain/multishift.py",
        "jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)",
        "jnp.where(jnp.isnan(log_ratio), 0.0, log_ratio)",
        ("chain/test_multishift.py", "kernels/test_hmc.py"),
    ),
    Mutant(
        "the move of hmc and mala uses the random numbers of the trajectory",
        "kernels/base.py",
        "uniforms = step_uniforms(key_data, t, dimension + 1, 3 * dimension + 1, dtype)",
        "uniforms = step_uniforms(key_data, t, 0, 3 * dimension + 1, dtype)",
        ("kernels/test_base.py", "kernels/test_hmc.py"),
    ),
    Mutant(
        "the move is accepted by the inverse ratio",
        "kernels/base.py",
        "accepted(uniforms[-1], new.logdensity - state.logdensity)",
        "accepted(uniforms[-1], state.logdensity - new.logdensity)",
        ("kernels/test_base.py", "kernels/test_hmc.py"),
    ),
    Mutant(
        "moves are made at the first step of a period, which evaluates restored lanes",
        "kernels/base.py",
        "MOVE_STEPS = (3, 7, 11, 15)",
        "MOVE_STEPS = (0, 4, 8, 12)",
        ("kernels/test_base.py", "lanes/test_segments.py"),
    ),
    Mutant(
        "the last half-step of a leapfrog is a whole one",
        "kernels/hmc.py",
        "return there, momentum + 0.5 * step_size * there.logdensity_grad",
        "return there, momentum + step_size * there.logdensity_grad",
        ("kernels/test_hmc.py",),
    ),
    Mutant(
        "an energy that is not a number is no divergence",
        "kernels/hmc.py",
        "diverging=~(-gain <= DIVERGENCE_THRESHOLD),",
        "diverging=-gain > DIVERGENCE_THRESHOLD,",
        ("kernels/test_hmc.py",),
    ),
    Mutant(
        "metropolis does not evaluate restored lanes",
        "kernels/metropolis.py",
        "            accept |= i < 0\n",
        "",
        ("kernels/test_metropolis.py", "kernels/test_base.py"),
    ),
    Mutant(
        "metropolis decides on all coordinates by one random number",
        "kernels/metropolis.py",
        "uniforms[3, jnp.maximum(i, 0)]",
        "uniforms[3, 0]",
        ("kernels/test_metropolis.py",),
    ),
    Mutant(
        "the criterion of nuts does not leave out half of the ends",
        "kernels/nuts.py",
        "inner = total - (left + right) / 2",
        "inner = total",
        ("kernels/test_nuts.py",),
    ),
    Mutant(
        "nuts draws its leaves with the keys of the next ones",
        "kernels/nuts.py",
        "jax.random.fold_in(key, subtree.length)",
        "jax.random.fold_in(key, subtree.length + 1)",
        ("kernels/test_nuts.py",),
    ),
    Mutant(
        "nuts keeps a subtree that turned",
        "kernels/nuts.py",
        "is_growing=growing & ~is_diverging & ~is_turning,",
        "is_growing=growing & ~is_diverging,",
        ("kernels/test_nuts.py",),
    ),
    Mutant(
        "gradients are whitened by the factor, not by its transpose",
        "kernels/whitening.py",
        "np.linalg.solve(self.factor.T, flat.T)",
        "np.linalg.solve(self.factor, flat.T)",
        ("kernels/test_whitening.py",),
    ),
    Mutant(
        "random numbers are numbered from 0 whatever their first number",
        "internal/threefry.py",
        "jnp.arange(first, first + count)",
        "jnp.arange(count)",
        ("internal/test_threefry.py",),
    ),
    Mutant(
        "all chains have the key of the first",
        "samplers/prepare.py",
        "return keys[chain], first_step",
        "return keys[0 * chain], first_step",
        ("samplers/test_prepare.py", "samplers/test_sample.py"),
    ),
    Mutant(
        "pairs of lanes are compared with themselves",
        "lanes/meeting.py",
        "np.roll(leaf, 1, 0)",
        "np.roll(leaf, 0, 0)",
        ("lanes/test_meeting.py", "planning/test_check.py"),
    ),
    Mutant(
        "meeting times are one step too short",
        "lanes/meeting.py",
        "np.where(last < len(met), last + 1.0, np.inf)",
        "np.where(last < len(met), last + 0.0, np.inf)",
        ("lanes/test_meeting.py",),
    ),
    Mutant(
        "thinned draws are those of one step earlier",
        "samplers/recorder.py",
        "slice((-first - 1) % thin, num_steps, thin)",
        "slice(-first % thin, num_steps, thin)",
        ("samplers/test_recorder.py",),
    ),
    Mutant(
        "a resumed run forgets the steps beyond its last draw",
        "samplers/checkpoint.py",
        "        recorder.tail = path, outputs\n",
        "        recorder.tail = None\n",
        ("samplers/test_checkpoint.py", "samplers/test_resume.py"),
    ),
    Mutant(
        "the states of a checkpoint are those before the last segment",
        "samplers/checkpoint.py",
        '**packed("states", driver.run.states),',
        '**packed("states", prepared.run.states),',
        ("samplers/test_checkpoint.py", "samplers/test_resume.py"),
    ),
    Mutant(
        "lanes beyond the end of a BlackJAX chain go on",
        "samplers/chain_run.py",
        "return words, steps < self.num_steps",
        "return words, steps <= self.num_steps",
        ("samplers/test_chain_run.py", "samplers/test_blackjax_run.py"),
    ),
    Mutant(
        "a carried log density that is wrong by any amount passes",
        "chain/blackjax_chain.py",
        "(np.abs(carried - again) > limit).any()",
        "(np.abs(carried - again) > np.inf).any()",
        ("chain/test_blackjax_chain.py", "samplers/test_blackjax_run.py"),
    ),
    Mutant(
        "block DEER corrects the start at the end of the exact prefix",
        NEWTON,
        "lane <= it.progress.front",
        "lane < it.progress.front",
        ("solver/test_newton.py",),
    ),
    Mutant(
        "block DEER takes the incoming state of the wrong device",
        NEWTON,
        "jnp.maximum(sweep.collectives.rank - 1, 0)",
        "sweep.collectives.rank",
        ("solver/test_newton.py",),
    ),
    Mutant(
        "block DEER forgets joins inside blocks",
        NEWTON,
        "exact = tolerance.accepts_capped(join.difference, join.state)",
        "exact = jnp.ones(len(sizes), bool)",
        ("solver/test_newton.py", "solver/test_sweep.py"),
    ),
    Mutant(
        "a stalled path is finished from one step too late",
        "solver/finish.py",
        "solution.exact_prefix, num_steps)",
        "solution.exact_prefix + 1, num_steps)",
        ("solver/test_finish.py",),
    ),
    Mutant(
        "the tolerance of two states is their sum, not in every coordinate",
        "solver/tolerance.py",
        "& (abs(difference) < math.inf)).all(-1)",
        "& (abs(difference) < math.inf)).any(-1)",
        ("solver/test_tolerance.py",),
    ),
    Mutant(
        "R-hat ignores the folded draws",
        "draws/convergence.py",
        "_potential_scale_reduction(_normal_scores(folded))",
        "_potential_scale_reduction(_normal_scores(parts))",
        ("draws/test_convergence.py",),
    ),
)


def is_caught(mutant: Mutant, copy: Path) -> bool:
    """Whether one of its tests fails in a copy of the project."""
    file = copy / "parsample" / mutant.file
    original = file.read_text()
    file.write_text(original.replace(mutant.old, mutant.new))
    tests = [f"tests/{name}" for name in mutant.tests]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        file.write_text(original)
    if done.returncode not in (0, FAILED):
        raise RuntimeError(f"{mutant.fault}: the tests could not run.\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == FAILED


def main() -> int:
    """Print every fault and whether it is caught; the exit status is 1 if any is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, help="numbers of faults, from 1 on; none: all")
    chosen = parser.parse_args().numbers or range(1, len(MUTANTS) + 1)
    missed = 0
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "results", "build"))
        for number in chosen:
            mutant = MUTANTS[number - 1]
            caught = is_caught(mutant, copy)
            missed += not caught
            print(f"{number:2d} {'caught' if caught else 'MISSED'}: {mutant.fault}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
