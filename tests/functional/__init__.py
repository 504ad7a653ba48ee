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


import nova_vgpu_mig.demo  # noqa: F401  chooses Nova's concurrency mode

import os

if os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'].lower() not in (
        '1', 'true', 'yes'):
    # Agents never run under eventlet; here they share a process with a Nova
    # that does. Its sockets have no recvmsg and sendmsg of their own, so
    # that a call to the GIM would fail at once instead of waiting.
    from eventlet import greenio

    greenio.GreenSocket.recvmsg = (
        lambda self, *args: self._recv_loop(self.fd.recvmsg, b'', *args))
    greenio.GreenSocket.sendmsg = (
        lambda self, *args: self._send_loop(self.fd.sendmsg, *args))
