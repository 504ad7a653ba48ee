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

"""Unit tests run as the services do: on native threads.

Nova forbids eventlet in that mode, and can do so only before anybody has
imported it; oslo.messaging alone would. So it is done first of all, and a
module of ours that needed eventlet would fail here.
"""

import os

os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = 'true'

import hypothesis
from nova import monkey_patch

monkey_patch.patch()

# A busy machine is no failure: no test asserts on time.
hypothesis.settings.register_profile('unit', deadline=None)
hypothesis.settings.load_profile('unit')
