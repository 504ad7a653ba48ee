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

"""A checkpoint of a kernel device that no QEMU holds: run on a node.

`python3 -m tests.lab.kept save VF FILE WORKING_SET STRIDE` lets the device
work and saves it; `... load VF FILE` loads it. Both print what the device
says of its frame buffer then: digest, and words of work done.
"""

import pathlib
import sys
import time

from oslo_config import cfg

from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.vfio import driver as vfio
from nova_vgpu_mig.migration import checkpoint

WORDS = 3000
STOP = contract.DeviceState.STOP


def _identity(driver: vfio.VFIODriver, vf: str) -> identity.VFIdentity:
    return next(pool.identity for pool in driver.pools()
                for found in pool.vfs if found.address == vf)


def _work(files: pathlib.Path, working_set: str, stride: str) -> None:
    workload = files / 'workload'
    (workload / 'working_set_bytes').write_text(working_set)
    (workload / 'stride_bytes').write_text(stride)
    (workload / 'doorbell').write_text(str(WORDS))
    while (workload / 'pending').read_text().strip() != '0':
        time.sleep(0.1)


def main() -> int:
    action, vf, file, *more = sys.argv[1:]
    conf = cfg.ConfigOpts()
    conf([])
    driver = vfio.VFIODriver(conf)
    files = pathlib.Path('/sys/bus/mdev/devices', vf)
    who = _identity(driver, vf)
    device = driver.open(vf)
    try:
        if action == 'save':
            _work(files, *more)
            checkpoint.save(device, who, file, then=STOP)
        else:
            checkpoint.load(device, who, file, then=STOP)
        print((files / 'digest').read_text().strip())
    except checkpoint.CheckpointError as exc:
        print(exc, file=sys.stderr)
        return 1
    finally:
        device.close()
    return 0


if __name__ == '__main__':
    sys.exit(main())
