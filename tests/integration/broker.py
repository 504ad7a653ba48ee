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

"""A RabbitMQ of our own: private node, ports, data and cookie.

`NOVA_VGPU_MIG_TEST_TRANSPORT_URL` names a broker to use instead. Nothing is
shared with a broker that may run on the machine, not even epmd.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile

GIVEN = 'NOVA_VGPU_MIG_TEST_TRANSPORT_URL'
SCRIPTS = pathlib.Path('/usr/lib/rabbitmq/bin')
PATIENCE = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


class Broker:
    """Started once for all tests of a process; see get()."""

    def __init__(self) -> None:
        if not (SCRIPTS / 'rabbitmq-server').exists():
            raise RuntimeError(
                'RabbitMQ is missing: apt-get install rabbitmq-server, or '
                f'name a broker in {GIVEN}')
        self.home = pathlib.Path(tempfile.mkdtemp(prefix='vgpu-mig-rabbit-'))
        self.port = free_port()
        self.node = f'vgpu_mig_{os.getpid()}@localhost'
        self._env = {
            **os.environ, 'HOME': str(self.home),
            'RABBITMQ_NODENAME': self.node,
            'RABBITMQ_NODE_IP_ADDRESS': '127.0.0.1',
            'RABBITMQ_NODE_PORT': str(self.port),
            'RABBITMQ_DIST_PORT': str(free_port()),
            'ERL_EPMD_PORT': str(free_port()),
            'ERL_EPMD_ADDRESS': '127.0.0.1',
            'RABBITMQ_MNESIA_BASE': str(self.home / 'data'),
            'RABBITMQ_LOG_BASE': str(self.home / 'log'),
            'RABBITMQ_PID_FILE': str(self.home / 'pid'),
            'RABBITMQ_ENABLED_PLUGINS_FILE': str(self.home / 'plugins'),
            'RABBITMQ_CONF_ENV_FILE': '/dev/null',
            'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS': '+sbwt none +S 2:2',
        }
        self._log = (self.home / 'console').open('w')
        self._process = subprocess.Popen(
            [SCRIPTS / 'rabbitmq-server'], env=self._env, stdout=self._log,
            stderr=subprocess.STDOUT, start_new_session=True)
        try:
            self._ctl('wait', '--pid', str(self._process.pid), '--timeout',
                      str(PATIENCE))
        except BaseException:
            self.close()
            raise
        self.url = f'rabbit://guest:guest@127.0.0.1:{self.port}//'

    def _ctl(self, *command: str) -> str:
        done = subprocess.run(
            [SCRIPTS / 'rabbitmqctl', '-n', self.node, *command],
            env=self._env, capture_output=True, text=True,
            timeout=PATIENCE + 30, check=False)
        if done.returncode:
            raise RuntimeError(
                f'rabbitmqctl {command[0]}: {done.stdout}{done.stderr}\n'
                + (self.home / 'console').read_text())
        return done.stdout

    def queues(self) -> dict[str, int]:
        """Return the length of each queue."""
        lines = self._ctl('-q', 'list_queues', 'name',
                          'messages').splitlines()[1:]
        return {name: int(length) for name, length in
                (line.rsplit('\t', 1) for line in lines)}

    def pause(self) -> None:
        """Stop to take messages, as a broker that has gone away."""
        self._ctl('stop_app')

    def resume(self) -> None:
        self._ctl('start_app')
        self._ctl('await_startup', '--timeout', str(PATIENCE))

    def close(self) -> None:
        """End it, its epmd, and remove its files."""
        try:
            self._ctl('stop')
        except (RuntimeError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        epmd = shutil.which('epmd') or 'epmd'
        subprocess.run([epmd, '-kill'], env=self._env, capture_output=True,
                       check=False)
        self._log.close()
        shutil.rmtree(self.home, ignore_errors=True)


_broker: Broker | None = None


def get() -> str:
    """Return the transport URL of the broker, started at the first call."""
    global _broker
    given = os.environ.get(GIVEN)
    if given:
        return given
    if _broker is None:
        import atexit
        _broker = Broker()
        atexit.register(_broker.close)
    return _broker.url


def own() -> Broker | None:
    """Return the broker that get() has started, None if it was given."""
    get()
    return _broker
