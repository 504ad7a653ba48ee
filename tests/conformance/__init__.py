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


"""The contract of VFIO migration v2, as one suite for every device.

Needs unittest and the package alone, so that it runs inside a node of the
lab as well: `python3 -m tests.conformance --driver vfio --type mtty-2`. Where
devices may differ, `Traits` says so as data; what is not data there is the
contract. Tests that a device can't have are named there, too, and no test
skips itself.
"""
