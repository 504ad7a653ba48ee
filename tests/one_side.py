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


"""One side of a move as a process of its own, to be killed in mid-move.

`python -m tests.one_side '{...}'` prints a line for each phase it enters and
stands still in the one it was told; a destination prints its offer first.
"""

import json
import sys
import threading

from oslo_config import cfg

from nova_vgpu_mig.conf import software_gim
from nova_vgpu_mig.conf import vmm_standin
from nova_vgpu_mig.gpu.software import driver
from nova_vgpu_mig.migration import destination
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import offer
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record
from nova_vgpu_mig.migration import server
from nova_vgpu_mig.migration import source
from nova_vgpu_mig.vmm.standin import port
from tests import two_hosts


def main() -> None:
    told = json.loads(sys.argv[1])
    conf = cfg.ConfigOpts()
    conf([])
    software_gim.register_opts(conf)
    vmm_standin.register_opts(conf)
    for group, name in (('software_gim', 'gim'), ('vmm_standin', 'vm')):
        conf.set_override('runtime_dir', f'{told["directory"]}/{name}',
                          group)
    values = record.MigrationRecord.from_dict(told['record'])
    guest = port.StandinPort(conf).guest(values.instance_uuid)
    book = journal.Journal(told['directory'] + '/journal')

    def observe(seen: record.MigrationRecord) -> None:
        print(seen.phase, flush=True)
        if seen.phase == told['stand_still']:
            threading.Event().wait()

    gpu = driver.SoftwareGPUDriver(conf)
    if values.role is phases.Role.SOURCE:
        source.SourceMigration(
            driver=gpu, guest=guest, journal=book, record=values,
            offer=offer.Offer.from_dict(told['offer']),
            limits=two_hosts.LIMITS, observer=observe).run()
        return
    listener = server.DataServer('127.0.0.1', 0)
    listener.start()
    move = destination.DestinationMigration(
        driver=gpu, journal=book, record=values, server=listener,
        limits=two_hosts.LIMITS, ask_source=lambda: None, observer=observe)
    print(json.dumps(move.prepare(guest).as_dict()), flush=True)
    move.wait()


if __name__ == '__main__':
    main()
