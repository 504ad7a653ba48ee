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

"""The kernel's sample serial port moves with its guest."""

from lab import places
from lab import wait
from tests.lab import base
from tests.lab import guest as guest_

TX_AND_RX, FIFO_CONTROL, LINE_CONTROL, SCRATCH = 0, 2, 3, 7
FIFO_ON = 1
EIGHT_BITS = 3
WORD = 0xa5
TEXT = b'gpu'


class MttyTestCase(base.LabTestCase):

    def _guest(self, kind: str) -> tuple[guest_.Guest, int]:
        """A running guest at node 1, with something in its UART."""
        guest = guest_.Guest(self.one, self.mdev(self.one, kind), bios=True)
        port = guest.ports()

        def takes() -> bool:
            # The BIOS places the ports before it lets them be used.
            guest.write(port + SCRATCH, WORD)
            return guest.read(port + SCRATCH) == WORD

        wait.until('UART', takes, guest_.PATIENCE,
                   places.run() / f'{self.one.name}.console')
        guest.write(port + LINE_CONTROL, EIGHT_BITS)
        guest.write(port + FIFO_CONTROL, FIFO_ON)
        for byte in TEXT:
            guest.write(port + TX_AND_RX, byte)
        return guest, port

    def _assert_registers(self, guest: guest_.Guest, port: int) -> None:
        self.assertEqual(
            (WORD, EIGHT_BITS),
            (guest.read(port + SCRATCH), guest.read(port + LINE_CONTROL)))

    def test_there_and_back(self) -> None:
        guest, port = self._guest('mtty-2')
        result = self.assert_moves(guest, self.two,
                                   self.mdev(self.two, 'mtty-2'))
        self.assertGreater(result['job']['vfio_data_transferred'], 0)
        self._assert_registers(guest, port)
        # Half of the FIFO is read here, half after the way back.
        self.assertEqual(TEXT[0], guest.read(port + TX_AND_RX))
        # A device whose state has left is in STOP: the way back needs a
        # fresh one.
        self.assert_moves(guest, self.one, self.mdev(self.one, 'mtty-2'))
        self._assert_registers(guest, port)
        self.assertEqual(TEXT[1:], bytes(
            guest.read(port + TX_AND_RX) for _ in TEXT[1:]))

    def test_another_type_is_refused(self) -> None:
        guest, port = self._guest('mtty-1')
        there = self.mdev(self.two, 'mtty-2')
        self.assert_refused(guest, self.two, there)
        self._assert_registers(guest, port)
        self.assertEqual(TEXT, bytes(
            guest.read(port + TX_AND_RX) for _ in TEXT))
