"""Random GPU layouts against llama.cpp's own placement: python bench/layouts.py [COUNT] [SEED]"""

import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab.engine.build import ensure
from lab.layouts import Verdict, judge, random_case


def main(count: int, seed: int) -> int:
    engine, random, started = ensure(print), Random(seed), time.monotonic()
    verdicts = [judge(engine, *random_case(random)) for _ in range(count)]
    unfit = [verdict for verdict in verdicts if verdict.unfit]
    missed = [verdict for verdict in verdicts if verdict.missed]
    for verdict in unfit + missed:
        print(_line(verdict))
    kinds = [verdict.choice.placement if verdict.choice else "refused" for verdict in verdicts]
    print(
        f"seed {seed}: {count} layouts in {time.monotonic() - started:.0f} s: "
        + ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    )
    print(f"the choice does not fit by llama.cpp: {len(unfit)} (wanted: 0)")
    print(f"the next better would have fitted: {len(missed)} (wanted: at most {count // 100})")
    return 1 if unfit or len(missed) * 100 > count else 0


def _line(verdict: Verdict) -> str:
    cards = " + ".join(str(card.vram_mib) for card in verdict.hardware.gpus)
    taken = verdict.choice.reason if verdict.choice else "none"
    return f"{verdict.unfit or verdict.missed} | {cards} MiB | {verdict.policy} | {taken}"


if __name__ == "__main__":
    arguments = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(arguments + [500, 1][len(arguments) :])))
