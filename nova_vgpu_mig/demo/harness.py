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


"""Nova 34 in one process, out of its own functional tests.

API, conductor, scheduler, Placement and computes are Nova's; this module
runs its test case as a program would: set up, used, cleaned up, with nobody
collecting results. What the harness replaces and we need is put back or
turned: casts stay casts (a live migration is one), the paste file is where
the wheel has put it, and what it logs goes into a file.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import importlib.metadata
import json
import logging
from typing import Any

from nova import context as nova_context
from nova import objects
from nova.tests.functional.libvirt import base
from oslo_log import log as oslo_log

from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.demo import libvirt

CONF = base.CONF
ALIAS = 'gpu-vf'
VENDOR_ID = '1002'
DEVICE_ID = '74b5'
DRIVER = 'vgpu_mig.VgpuMigLibvirtDriver'
FILTER = 'nova_vgpu_mig.nova.filter.VFCompatibilityFilter'

LIBVIRT_VERSION = 10_000_000
QEMU_VERSION = 8_002_002
"""The least with which Nova believes that a VF is `live_migratable`."""


def paste_config() -> str:
    """Return where pip has put Nova's api-paste.ini.

    :raises FileNotFoundError: not in the wheel.
    """
    for path in importlib.metadata.files('nova') or ():
        if path.name == 'api-paste.ini':
            return str(path.locate())
    raise FileNotFoundError('the installed nova has no api-paste.ini')


@contextlib.contextmanager
def microversion(api: Any, version: str) -> Iterator[None]:
    """Speak an older version of the compute API."""
    before, api.microversion = api.microversion, version
    try:
        yield
    finally:
        api.microversion = before


class Harness(base.ServersTestBase):  # type: ignore[misc]
    """Controllers are up after setUp(); computes start one by one."""

    ADMIN_API = True
    microversion = 'latest'
    # A live migration is a cast, and has to be one: as a call it would keep
    # the API waiting to its end.
    CAST_AS_CALL = False
    ADDITIONAL_FILTERS = ['PciPassthroughFilter', 'VFCompatibilityFilter']

    def __init__(self, log_file: str) -> None:
        super().__init__('runTest')
        self._log = logging.FileHandler(log_file)
        self._log.setLevel(logging.INFO)
        self._log.setFormatter(logging.Formatter(
            '%(asctime)s %(levelname)s [%(threadName)s] %(name)s '
            '%(message)s'))

    def runTest(self) -> None:
        """Nothing: a program uses it, and no runner."""

    def setUp(self) -> None:
        self._log_to_file()
        device = {'vendor_id': VENDOR_ID, 'product_id': DEVICE_ID,
                  'live_migratable': 'yes'}
        self.flags(group='pci', device_spec=[json.dumps(device)], alias=[
            json.dumps({**device, 'device_type': 'type-VF',
                        'name': ALIAS})])
        self.flags(group='wsgi', api_paste_config=paste_config())
        self.flags(group='filter_scheduler', available_filters=[
            'nova.scheduler.filters.all_filters', FILTER])
        super().setUp()

    def _log_to_file(self) -> None:
        """Send everything to the file; Nova's fixtures keep a copy."""
        root = logging.getLogger()
        previous = list(root.handlers)
        root.handlers = [self._log]

        def restore() -> None:
            self._log.close()
            root.handlers = previous

        self.addCleanup(restore)

    def _setup_services(self) -> None:
        # By now Nova's logging fixture has taken all handlers away.
        logging.getLogger().addHandler(self._log)
        agent_conf.register_opts(CONF)
        self.flags(group=agent_conf.GROUP, rpc_timeout=15, step_timeout=60)
        super()._setup_services()

    def _setup_compute_service(self) -> None:
        self.flags(compute_driver=DRIVER)

    def option(self, group: str, **values: Any) -> None:
        """Set options of Nova's until the end."""
        self.flags(group=group, **values)

    def start(self, connection: libvirt.Connection) -> None:
        """Start a nova-compute on a libvirt connection."""
        super().start_compute(hostname=connection.host,
                              connection=connection)

    def report(self) -> None:
        """Run the periodic task by which computes report what they have."""
        self._run_periodics()

    def pci_devices(self, host: str) -> tuple[int, int]:
        """Return how many VFs of a host are allocated, and claimed."""
        context = nova_context.get_admin_context()
        node = objects.ComputeNode.get_by_nodename(context, host)
        found = [device.status for device in
                 objects.PciDeviceList.get_by_compute_node(context, node.id)]
        return found.count('allocated'), found.count('claimed')

    def allocated_hosts(self, consumer: str) -> list[str]:
        """Return the hosts on which a consumer has Placement allocations."""
        held = self._get_allocations_by_server_uuid(consumer)
        return sorted(host for host, provider in
                      self.compute_rp_uuids.items() if provider in held)

    def flavor(self, memory_mb: int, extra_specs: Mapping[str, str]) -> str:
        """Create a flavor and return its id."""
        return str(self._create_flavor(
            vcpu=2, memory_mb=memory_mb, disk=1, ephemeral=0,
            extra_spec=dict(extra_specs)))

    def stop(self) -> None:
        """Stop the services and undo what was patched.

        :raises Exception: the first that a cleanup raised.
        """
        oslo_log.getLogger(__name__).info('The cloud is going down')
        failures: list[BaseException] = []
        while self._cleanups:
            function, args, kwargs = self._cleanups.pop()
            _run(function, args, kwargs, failures)
        if failures:
            raise failures[0]


def _run(function: Callable[..., Any], args: Any, kwargs: Any,
         failures: list[BaseException]) -> None:
    try:
        function(*args, **kwargs)
    except Exception as exc:
        failures.append(exc)
