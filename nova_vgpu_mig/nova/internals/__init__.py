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

"""The one place that imports Nova's internals.

Nova promises nothing to code outside of its tree, so whatever could change
with a release of it is named here, and tools/check_tree.py lets nobody else
of the product import Nova. Two modules, because they are loaded by different
services: `compute` imports the libvirt driver, which no controller needs,
and `controller` imports little, because Nova's API does not start at all
when a module of extra-spec validators cannot be imported.
"""
