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

"""An agent that is killed, as by SIGKILL, when a move reaches a phase.

`NOVA_VGPU_MIG_TEST_DIE` is `role:phase`. The real agent with an observer;
the kill takes effect inside the call, so nothing after it is done.
"""

import os
import signal
import sys
import threading
from typing import Any

from nova_vgpu_mig.cmd import backend


def main() -> None:
    backend.choose()
    from oslo_config import cfg
    from oslo_log import log

    from nova_vgpu_mig.agent import service
    role, phase = os.environ['NOVA_VGPU_MIG_TEST_DIE'].split(':')

    def observe(record: Any) -> None:
        if (record.role, record.phase) == (role, phase):
            os.kill(os.getpid(), signal.SIGKILL)

    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf(sys.argv[1:], project='nova-vgpu-mig')
    log.setup(conf, 'nova-vgpu-mig')
    service.Agent(conf, observe).start()
    threading.Event().wait()


if __name__ == '__main__':
    main()
