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

"""`tools/demo`: one live migration, told as it goes."""

import json
import sys

from nova_vgpu_mig.demo import interrupt
from nova_vgpu_mig.demo import options as options_


def main() -> int:
    """Return 0 when everything promised held, else 1; 2 for bad options."""
    options = options_.parse()
    try:
        with interrupt.once():
            return _tell(options)
    except interrupt.Interrupted:
        print('\ntools/demo: interrupted; everything that it had started '
              'is ended', file=sys.stderr)
        return interrupt.STATUS


def _tell(options: options_.Options) -> int:
    # Nova is loaded only after the options have been found good.
    from nova_vgpu_mig.demo import compute
    from nova_vgpu_mig.demo import display
    from nova_vgpu_mig.demo import story

    try:
        report = story.Story(options, display.Display()).run()
    except compute.CloudError as exc:
        print(f'tools/demo: {exc}', file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_dict(), indent=2) + '\n')
    return 0 if report.held else 1


if __name__ == '__main__':
    sys.exit(main())
