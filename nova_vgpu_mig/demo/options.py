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

"""The demo's command line.

Numbers are checked here, before anything is started, so that a mistake
costs a line of text and not a minute of waiting.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import pathlib

from nova_vgpu_mig.migration import phases

WORKLOADS = ('idle', 'render', 'compute', 'video')
LEAST_MIB = 16
MOST_MIB = 4096
"""Four VFs of this size are touched by the demo at most twice over."""


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What the operator of the demo asked for."""

    frame_buffer_mib: int = 512
    workload: str = 'render'
    only_incompatible: bool = False
    abort: bool = False
    fail: phases.Phase | None = None
    json: pathlib.Path | None = None
    seed: int = 1
    limit_ms: int = 1000


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r}: must be a whole number') from None


def _mib(text: str) -> int:
    value = _number(text)
    if not LEAST_MIB <= value <= MOST_MIB or value % 2:
        raise argparse.ArgumentTypeError(
            f'{value} MiB: must be an even number from {LEAST_MIB} to '
            f'{MOST_MIB}')
    return value


def _positive(text: str) -> int:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f'{value}: must be more than 0')
    return value


def _file(text: str) -> pathlib.Path:
    path = pathlib.Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(
            f'{path.absolute().parent} is not a directory')
    if path.is_dir():
        raise argparse.ArgumentTypeError(f'{path} is a directory')
    return path


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog='tools/demo', description='Nova live-migrates a VM with a busy '
        'SR-IOV GPU VF, in one process, and a twin shows that nothing was '
        'lost.')
    made.add_argument(
        '--frame-buffer', type=_mib, default=512, metavar='MIB',
        help='frame buffer of a VF, MiB (default: %(default)s)')
    made.add_argument(
        '--workload', choices=WORKLOADS, default='render',
        help='what the VM does on its GPU (default: %(default)s)')
    made.add_argument(
        '--limit-ms', type=_positive, default=1000, metavar='MS',
        help='downtime that the flavor allows (default: %(default)s, twice '
        'the product\'s: Nova and both agents share one process here)')
    made.add_argument(
        '--seed', type=_positive, default=1,
        help='of the workload and its data (default: %(default)s)')
    what = made.add_mutually_exclusive_group()
    what.add_argument(
        '--only-incompatible', action='store_true',
        help='every other host has older GPU firmware and refuses')
    what.add_argument(
        '--abort', action='store_true',
        help="the operator aborts in pre-copy, through Nova's API")
    what.add_argument(
        '--fail', choices=[str(p) for p in phases.FAILURE_PHASES],
        metavar='PHASE',
        help='something fails in this phase: '
             + ', '.join(phases.FAILURE_PHASES))
    made.add_argument('--json', type=_file, metavar='FILE',
                      help='write the record there as well')
    return made


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options; argparse exits with 2 and a text on mistakes."""
    given = parser().parse_args(arguments)
    return Options(
        frame_buffer_mib=given.frame_buffer, workload=given.workload,
        only_incompatible=given.only_incompatible, abort=given.abort,
        fail=phases.Phase(given.fail) if given.fail else None,
        json=given.json, seed=given.seed, limit_ms=given.limit_ms)
