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


import threading
import types

from oslotest import base

from nova_vgpu_mig.vmm.libvirt import connection


class Opened:
    """A virConnect; `lose` is what libvirt calls when it is gone."""

    def setKeepAlive(self, seconds, count):
        pass

    def registerCloseCallback(self, callback, opaque):
        self.lose = lambda: callback(self, 0, opaque)

    def unregisterCloseCallback(self):
        pass

    def close(self):
        pass


LIBVIRT = types.SimpleNamespace(
    libvirtError=OSError, open=lambda uri: Opened(),
    virEventRegisterDefaultImpl=lambda: None,
    virEventRunDefaultImpl=threading.Event().wait)


class TestConnection(base.BaseTestCase):
    def test_a_loss_is_told_before_the_next_one_can_be_opened(self):
        told = []
        one = connection.Connection(
            types.SimpleNamespace(libvirt=LIBVIRT), 'test:///', lambda made:
            None, lambda: told.append([
                thread.name for thread in threading.enumerate()]))
        self.addCleanup(one.close)
        one.get().lose()
        [threads] = told
        self.assertNotIn('libvirt-again', threads)
