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

"""nova-vgpu-mig-agent: the agent of a compute host."""

import sys

from nova_vgpu_mig.cmd import backend


def main() -> int:
    backend.choose()
    from oslo_config import cfg
    from oslo_log import log
    from oslo_service import service as oslo_service

    from nova_vgpu_mig.agent import service
    from nova_vgpu_mig.agent import startup
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    try:
        conf(sys.argv[1:], project='nova-vgpu-mig')
        log.setup(conf, 'nova-vgpu-mig')
        startup.examine(conf)
    except (cfg.Error, log.LogConfigError, OSError,
            startup.CannotStart) as exc:
        # In one line, which `systemctl status` shows.
        sys.stderr.write(f'nova-vgpu-mig-agent: {" ".join(str(exc).split())}'
                         '\n')
        return 1
    agent = service.AgentService(conf)
    code: int | None = oslo_service.launch(conf, agent).wait()
    return code or 0


if __name__ == '__main__':
    sys.exit(main())
