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

"""tools/lab: the commands."""

import argparse
from collections.abc import Callable
import contextlib
import os
import signal
import subprocess
import sys
import unittest

from lab import cache
from lab import cluster
from lab import errors
from lab import host
from lab import jail
from lab import lock
from lab import network
from lab import places
from lab import progress
from lab import state as state_

_INTERRUPTED = 130
_ENDING_SECONDS = 10


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='tools/lab', description='Two compute nodes as VMs, with '
        'kernel VFIO, libvirt, QEMU and the agents of this checkout. Needs '
        f'root. Everything is kept below {places.cache()} '
        f'(${places.VARIABLE}).')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    def add(name: str, function: Callable[[argparse.Namespace], int],
            text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        return command

    add('up', _up, 'Build what has changed, start the nodes, and bring them '
        'this checkout.')
    test = add('test', _test, 'Bring the nodes this checkout and run the '
               'tests under tests/lab.')
    test.add_argument('tests', nargs='*', metavar='TEST',
                      help='as unittest names them, such as '
                      'tests.lab.test_mtty; all of them by default')
    test.add_argument('--failed', action='store_true', help='only those that '
                      'failed when some were run last')
    predict = add('predict', _predict, 'Compare many predicted switchovers '
                  'of real QEMU with what was measured.')
    predict.add_argument('--moves', default='30', metavar='N',
                         help='half of them without steering (30)')
    predict.add_argument('--seed', default='1', metavar='N',
                         help='of the first workload (1)')
    predict.add_argument('--output', default='prediction.csv',
                         metavar='FILE', help='the table (prediction.csv)')
    ssh = add('ssh', _ssh, 'A shell on a node, or one command on it.')
    ssh.add_argument('node', choices=[network.node_name(number)
                                      for number in network.numbers()])
    ssh.add_argument('command', nargs=argparse.REMAINDER)
    add('down', _down, 'End the nodes; what was built is kept.')
    add('clean', _clean, 'End the nodes and remove all that was built.')
    return parser


def _up(args: argparse.Namespace) -> int:
    with lock.held():
        cache.sweep()
        try:
            host.prepare()
            cluster.up()
        finally:
            cache.sweep()
    progress.say('up: tools/lab test, tools/lab ssh node1, tools/lab down')
    return 0


def _test(args: argparse.Namespace) -> int:
    tests = _failed() if args.failed else args.tests
    _check_names(tests)
    with lock.held():
        cluster.update(state_.running())
        what = tests or ['discover', '-s', 'tests/lab', '-t', '.']
        return _run([sys.executable, '-m', 'tests.lab', *what, '-v'])


def _failed() -> list[str]:
    """:raises LabError: none has."""
    try:
        names = places.failed().read_text().split()
    except FileNotFoundError:
        names = []
    if not names:
        raise errors.LabError('no test has failed when some were run last')
    return names


def _check_names(tests: list[str]) -> None:
    """:raises LabError: there is no such test."""
    loader = unittest.TestLoader()
    loader.loadTestsFromNames(tests)
    if loader.errors:
        there = sorted(path.stem for path in
                       (places.CHECKOUT / 'tests/lab').glob('test_*.py'))
        why = str(loader.errors[0]).strip().splitlines()[-1]
        raise errors.LabError(
            f'{" ".join(tests)}: {why}; '
            f'a test is named as for unittest, and the modules are '
            f'{", ".join(f"tests.lab.{name}" for name in there)}')


def _run(command: list[str]) -> int:
    """Run it to its end, and end with it whatever it has started."""
    # In a session of its own: an interrupt comes to us only, whoever sends
    # it, and goes on to all of it from here.
    process = subprocess.Popen(command, cwd=places.CHECKOUT,
                               start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_SECONDS)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _predict(args: argparse.Namespace) -> int:
    with lock.held():
        cluster.update(state_.running())
        return _run([sys.executable, '-m', 'tests.lab.prediction',
                     '--moves', args.moves, '--seed', args.seed,
                     '--output', os.path.abspath(args.output)])


def _ssh(args: argparse.Namespace) -> int:
    state = state_.running()
    for node in cluster.nodes(state):
        if node.name == args.node:
            terminal = [] if args.command else ['-t']
            command = [*node.ssh(*terminal), *args.command]
            os.execvp(command[0], command)
    raise AssertionError(args.node)


def _down(args: argparse.Namespace) -> int:
    if places.cache().exists():
        with lock.held():
            cluster.down()
            cache.sweep()
    return 0


def _clean(args: argparse.Namespace) -> int:
    if places.cache().exists():
        with lock.held():
            cluster.down()
            kept = places.marker(), places.lock()
            for path in places.cache().iterdir():
                if path not in kept:
                    places.remove(path)
            # Last: what is interrupted before can be cleaned again.
            for path in kept:
                path.unlink()
            places.cache().rmdir()
        progress.say(f'{places.cache()} is removed')
    return 0


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _terminated(number: int, frame: object) -> None:
    # What follows takes seconds; a second one would only break it off.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    args = _parser().parse_args()
    for number in _SIGNALS:
        signal.signal(number, _terminated)
    try:
        host.require_root()
        code: int = args.function(args)
    except (KeyboardInterrupt, errors.Interrupted):
        jail.stop()
        progress.say('interrupted')
        return _INTERRUPTED
    except errors.LabError as exc:
        progress.say(f'tools/lab: {exc}')
        return 1
    return code


if __name__ == '__main__':
    sys.exit(main())
