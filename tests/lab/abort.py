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

"""Has an agent abort the move of a guest: run on a node, by ssh.

`python3 -m tests.lab.abort HOST INSTANCE` makes the call that Nova's
notification of an operator's abort comes to (agent/listener.py). The CLI has
none: an operator aborts through Nova.
"""

import sys

from nova_vgpu_mig.cmd import backend

backend.choose()

from tests.lab import extension  # noqa: E402


def main() -> None:
    host, instance = sys.argv[1:]
    extension.api().abort(extension.CONTEXT, host, instance)


if __name__ == '__main__':
    main()
