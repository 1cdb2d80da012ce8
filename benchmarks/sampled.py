"""`sampled.py OUTPUT ARGUMENTS...` runs `conclave` and samples its stack for each few milliseconds of its CPU.

Called by `operator_scale` in a run that is not measured. Unlike cProfile it does not slow small functions down more
than large ones. OUTPUT gets, as JSON, the seconds of CPU in each function itself and in all that it called.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

EVERY_S = 0.005


class Sampler:
    """Counts functions of the main thread, which is the only one that the operator works in."""

    def __init__(self) -> None:
        self.samples = 0
        self.itself: Counter[str] = Counter()
        self.with_callees: Counter[str] = Counter()

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # one may be on its way

    def write(self, path: Path) -> None:
        itself, with_callees = (
            {name: round(count * EVERY_S, 3) for name, count in counted.most_common(400)}
            for counted in (self.itself, self.with_callees)
        )
        figures = {"cpu_s": round(self.samples * EVERY_S, 3), "itself_s": itself, "with_callees_s": with_callees}
        path.write_text(json.dumps(figures))

    def _sample(self, _: int, frame: FrameType | None) -> None:
        self.samples += 1
        if frame is not None:
            self.itself[_name(frame)] += 1
        seen = set()
        while frame is not None:
            seen.add(_name(frame))
            frame = frame.f_back
        self.with_callees.update(seen)


def _name(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}"


def main() -> None:
    from conclave_cli.main import main as conclave

    output = Path(sys.argv.pop(1))
    sampler = Sampler()
    sampler.start()
    try:
        conclave()
    finally:
        sampler.stop()
        sampler.write(output)


if __name__ == "__main__":
    main()
