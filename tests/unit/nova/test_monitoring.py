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


from concurrent import futures

import testtools

from nova_vgpu_mig.nova import monitoring


class WatchTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.future = futures.Future()
        self.ended = []
        self.tries = 0

    def watch(self, monitor):
        def counted(post, recover):
            self.tries += 1
            monitor(post, recover)

        monitoring.watch(
            counted, lambda *args: self.ended.append(args), self.fail,
            self.future, None, pause=0)

    def test_failed_monitor_begins_again_until_the_end(self):
        def monitor(post, recover):
            if self.tries < 50:
                raise OSError('abort: nobody answers')
            self.future.set_result(None)
            post('context', 'instance')

        self.watch(monitor)
        self.assertEqual((50, [('context', 'instance')]),
                         (self.tries, self.ended))

    def test_error_after_the_end_is_passed_on(self):
        def monitor(post, recover):
            post()
            raise OSError('network')

        self.assertRaises(OSError, self.watch, monitor)
        self.assertEqual((1, 1), (self.tries, len(self.ended)))

    def test_libvirt_stays_away_when_all_is_over(self):
        def monitor(post, recover):
            raise OSError('no libvirt')

        self.future.set_result(None)
        self.assertRaises(OSError, self.watch, monitor)
        self.assertEqual(monitoring.TRIES_AFTERWARDS, self.tries)
