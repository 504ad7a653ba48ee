# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.


"""`python -m benchmarks`, which `tools/bench` runs."""

import argparse
from collections.abc import Callable
import os
import pathlib
import platform
import sys
import time

from rich import console as console_

from benchmarks import carrier
from benchmarks import downtime
from benchmarks import hosts
from benchmarks import memory
from benchmarks import pairs
from benchmarks import report

SECTIONS: dict[str, Callable[[pairs.Progress], report.Section]] = {
    'carrier': carrier.measure,
    'render': downtime.render,
    'curve': downtime.curve,
    'memory': memory.measure,
    'talk': downtime.talk,
}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='tools/bench',
        description='The carrier, measured as ratios of two things in one '
        'run. About ten minutes on two cores that have nothing else to do.')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE',
                        help='write a list of {name, ratio, low, high, '
                        'bound, met}')
    parser.add_argument('--only', action='append', choices=list(SECTIONS),
                        metavar='NAME', help='only this one of '
                        f'{", ".join(SECTIONS)}; may be repeated')
    args = parser.parse_args(arguments)
    if args.json is not None and not args.json.absolute().parent.is_dir():
        parser.error(f'--json {args.json}: there is no such directory')
    return args


def _machine() -> str:
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    text = (f'{platform.system()} {platform.release()}, {cores} cores, '
            f'Python {platform.python_version()}, load average {load:.1f}')
    if load > cores / 2:
        text += '. Other work runs here: expect wide intervals'
    return text


def main() -> int:
    args = _parse(sys.argv[1:])
    # Bars and names must not be cut where the output goes to a file.
    console = console_.Console(
        width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(_machine())
    began = time.monotonic()
    results: list[pairs.Result] = []
    for name in args.only or SECTIONS:
        def progress(text: str, name: str = name) -> None:
            print(f'{time.monotonic() - began:4.0f} s  {name}: {text}',
                  file=sys.stderr, flush=True)

        progress('starting')
        try:
            section = SECTIONS[name](progress)
        except (hosts.BenchmarkError, OSError, ValueError) as exc:
            print(f'{name}: cannot be measured: {exc}', file=sys.stderr)
            return 1
        results += section.results
        report.show(console, section)
    report.show(console, report.Section(tables=[report.summary(results)]))
    console.print(f'Took {time.monotonic() - began:.0f} s. Each pair is A '
                  'then B, one after the other; no bound has less than '
                  f'{pairs.LEAST_PAIRS} pairs.')
    if args.json is not None:
        report.write(args.json, results)
    return 0


if __name__ == '__main__':
    sys.exit(main())
