"""Speed of canonical form, fingerprint and the paper's proxy, on single programs.

    python benchmarks/identity.py

Random programs are drawn from the paper's space with up to 14 instructions, as in its code. Descendants are mutations
of AdamW with ten or more live instructions. The fingerprint of a canonical form is computed once, as in a search.
"""

from __future__ import annotations

import numpy as np
import torch
from harness import arguments, interleaved, median, print_table, record
from torch import linalg, nn

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer, SearchSpace, canonical_form, fingerprint
from nosbench_env.identity.fingerprint import probed
from nosbench_env.identity.paper_proxy import paper_fingerprint
from nosbench_env.language.live_code import live_code


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--programs",
        type=int,
        default=8000,
        help="random programs; of descendants, a quarter (default: %(default)s)",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    for kind, programs in (("random", random(options.programs)), ("descendants", descendants(options.programs // 4))):
        few = programs[: max(1, len(programs) // 40)]  # for the slow side
        share = len(programs) / len(few)

        def forget() -> None:
            probed.cache_clear()
            paper_fingerprint.cache_clear()

        seconds = interleaved(
            {
                "paper's proxy by autograd": lambda few=few: [proxy_by_autograd(program) for program in few],
                "paper's proxy, ours": lambda programs=programs: [fingerprint(p, "paper") for p in programs],
                "canonical form": lambda programs=programs: [canonical_form(p) for p in programs],
                "canonical form and fingerprint": lambda programs=programs: [fingerprint(p) for p in programs],
            },
            options.rounds,
            before=forget,
        )
        seconds["paper's proxy by autograd"] = [taken * share for taken in seconds["paper's proxy by autograd"]]
        live = np.mean([len(live_code(program)[0]) for program in programs])
        print(f"\n{len(programs)} {kind} programs, {live:.1f} live instructions on average")
        print_table(seconds, "paper's proxy by autograd")
        rates = {side: round(len(programs) / median(taken)) for side, taken in seconds.items()}
        print("\n".join(f"{side:32} {rate:>9,} a second" for side, rate in rates.items()))
        figures[kind] = {"programs": len(programs), "live": round(float(live), 2), "per_second": rates}
    if not options.no_record:
        record("identity", figures)


def random(count: int) -> list[Program]:
    space, rng = SearchSpace(max_instructions=14), np.random.default_rng(0)
    return [space.sample(rng) for _ in range(count)]


def descendants(count: int) -> list[Program]:
    space, rng = SearchSpace(), np.random.default_rng(0)
    programs: list[Program] = []
    while len(programs) < count:
        program = KNOWN_PROGRAMS["AdamW"]
        for _ in range(rng.integers(1, 30)):
            program = space.mutate(program, rng)
        if len(live_code(program)[0]) >= 10:
            programs.append(program)
    return programs


def proxy_by_autograd(program: Program) -> float:
    """Computes the proxy literally as in Appendix B."""
    generator = torch.Generator().manual_seed(42)
    a, b, start = (torch.randn(shape, generator=generator) * 0.1 for shape in ((10, 10), (10,), (10,)))
    x = nn.Parameter(start)
    optimizer = ProgramOptimizer([x], program)
    average = 0.0
    for _ in range(10):
        optimizer.zero_grad()
        z = linalg.vector_norm(x @ a + b)
        loss = (z**2 / (z**2 + 1) + 0.5).abs()
        if not loss.isfinite():
            break
        average = 0.9 * average + 0.1 * loss.item()
        loss.backward()
        optimizer.step()
    return average


if __name__ == "__main__":
    main()
