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

"""nova-vgpu-mig-status: is this host fit for moves?"""

import sys

from nova_vgpu_mig.cmd import backend


def main(argv: list[str] | None = None) -> int:
    backend.choose()
    from oslo_config import cfg
    from oslo_upgradecheck import upgradecheck

    from nova_vgpu_mig.status import commands
    conf = cfg.ConfigOpts()
    try:
        code: int = upgradecheck.main(
            conf, project='nova-vgpu-mig',
            upgrade_command=commands.Checks(conf),
            argv=sys.argv[1:] if argv is None else argv)
    except cfg.Error as exc:
        sys.stderr.write(f'nova-vgpu-mig-status: {exc}\n')
        return 255
    return int(code)


if __name__ == '__main__':
    sys.exit(main())
