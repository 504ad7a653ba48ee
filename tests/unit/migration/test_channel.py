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


import os
import queue
import resource
import socket
import threading
from unittest import mock
import uuid

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.migration import channel
from nova_vgpu_mig.migration import dialled
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import link
from nova_vgpu_mig.migration import server

PATIENCE = 30.0
Kind = frames.Kind
ALL = frozenset(Kind)


def pair(case, silence=PATIENCE):
    """Two channels over one real TCP connection."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    made = [channel.Channel(link.Line(sock, link.Patience(silence)))
            for sock in (left, right)]
    for one in made:
        case.addCleanup(one.close)
    return made


class ChannelTest(base.BaseTestCase):

    def test_a_unit_goes_where_it_belongs(self):
        left, right = pair(self)
        right.bounds = frames.Bounds(3 << 20, 4)
        unit = os.urandom(3 << 20)
        thread = threading.Thread(target=left.send, args=(
            Kind.UNIT, frames.encode_unit(3), memoryview(unit)))
        thread.start()
        self.addCleanup(thread.join)
        head = right.receive(ALL)
        self.assertEqual((Kind.UNIT, 8 + len(unit)),
                         (head.kind, head.length))
        self.assertEqual(3, frames.decode_unit(
            right.read(frames.UNIT_PREFIX), right.bounds))
        place = bytearray(len(unit))
        right.read_into(memoryview(place))
        self.assertEqual(unit, bytes(place))

    def test_the_reason_comes_before_the_loss(self):
        left, right = pair(self)
        ended = threading.Thread(target=right.fail, args=('disk full',))
        ended.start()
        self.addCleanup(ended.join)

        def send_until_told():
            data = bytes(1 << 20)
            while True:
                left.send(Kind.STREAM, frames.encode_offset(0), data)

        error = self.assertRaises(channel.PeerFailed, self._until,
                                  left, send_until_told)
        self.assertEqual('disk full', error.reason)
        self.assertIn(left.peer, str(error))

    def _until(self, left, action):
        try:
            action()
        finally:
            left.close()

    def test_a_peer_that_takes_nothing(self):
        left, _ = pair(self, silence=0.3)
        error = self.assertRaises(link.ChannelError, self._flood, left)
        self.assertIn('took nothing', str(error))

    def _flood(self, left):
        data = bytes(frames.MAX_STREAM)
        while True:
            left.send(Kind.STREAM, frames.encode_offset(0), data)

    def test_a_peer_that_sends_nothing(self):
        left, _ = pair(self, silence=0.3)
        error = self.assertRaises(link.ChannelError, left.receive, ALL)
        self.assertIn('sent nothing', str(error))

    def test_an_abort_reaches_a_sender_that_waits(self):
        left, _ = pair(self)
        aborted = threading.Event()
        left.patience.interrupted = aborted.is_set
        timer = threading.Timer(0.1, aborted.set)
        timer.start()
        self.addCleanup(timer.join)
        self.assertRaises(link.Interrupted, self._flood, left)

    def test_an_abort_reaches_a_receiver_that_never_waits(self):
        left, right = pair(self)
        for _ in range(3):
            left.send(Kind.READY)
        self.assertEqual(Kind.READY, right.receive(ALL).kind)
        right.patience.interrupted = lambda: True
        self.assertRaises(link.Interrupted, right.receive, ALL)

    def test_an_acknowledgement_of_nothing(self):
        left, right = pair(self)
        left.send(Kind.READY)
        for _ in range(2):
            right._line.send([frames.header(Kind.ACK, 0, 1)])
        error = self.assertRaises(link.ChannelError, left.receive, ALL)
        self.assertIn('acknowledged before', str(error))

    def test_acknowledgements_do_not_lengthen_a_wait(self):
        left, right = pair(self)
        count, stop = 60, threading.Event()
        for _ in range(count):
            left.send(Kind.READY)

        def acknowledge():
            for sequence in range(1, count + 1):
                if stop.wait(0.1):
                    return
                right._line.send([frames.header(Kind.ACK, 0, sequence)])

        thread = threading.Thread(target=acknowledge)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(stop.set)
        error = self.assertRaises(link.ChannelError, left.receive, ALL, 0.5)
        self.assertIn('for 0.5 s', str(error))
        self.assertLess(left._window.first, count)

    def test_an_acknowledgement_after_the_seal(self):
        left, right = pair(self)
        left.send(Kind.READY)
        left.seal()
        right._line.send([frames.header(Kind.ACK, 0, 1)])
        right.send(Kind.READY)
        self.assertEqual(Kind.READY, left.receive(ALL).kind)

    def test_a_closed_connection_names_the_peer(self):
        left, right = pair(self)
        right.close()
        error = self.assertRaises(link.ChannelError, left.receive, ALL)
        self.assertIn(left.peer, str(error))

    def test_nobody_there(self):
        with socket.create_server(('127.0.0.1', 0)) as listener:
            port = listener.getsockname()[1]
        error = self.assertRaises(
            link.ChannelError, dialled.Dialled.connect, '127.0.0.1',
            port, frames.Hello(str(uuid.uuid4()), bytes(32)),
            connect_seconds=5, patience=link.Patience(5))
        self.assertIn(f'127.0.0.1:{port}', str(error))

    @hypothesis.settings(deadline=None, max_examples=60)
    @hypothesis.given(strategies.binary(max_size=200))
    def test_garbage_ends_in_one_error(self, data):
        with socket.create_server(('127.0.0.1', 0)) as listener:
            stranger = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        with stranger:
            stranger.sendall(data)
        reader = channel.Channel(link.Line(
            accepted, link.Patience(PATIENCE)))
        try:
            head = reader.receive(ALL)
            reader.read(head.length)
        except link.ChannelError:
            pass
        finally:
            reader.close()

    def test_no_memory_for_what_a_peer_says(self):
        left, right = pair(self)
        right.bounds = frames.Bounds(2 << 20, 8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        left._line.send([frames.header(Kind.VERIFY, 0xffffffff, 0)])
        error = self.assertRaises(link.ChannelError, right.receive, ALL)
        self.assertIn('4294967295', str(error))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.assertLess(after - before, 64 << 10)


class ServerTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.server = server.DataServer('127.0.0.1', 0, PATIENCE)
        self.server.start()
        self.addCleanup(self.server.close)
        self.uuid = str(uuid.uuid4())
        self.came = queue.Queue()

    def connect(self, ticket, number=None):
        made = dialled.Dialled.connect(
            *self.server.address,
            frames.Hello(number or self.uuid, bytes.fromhex(ticket)),
            connect_seconds=PATIENCE,
            patience=link.Patience(PATIENCE, PATIENCE))
        self.addCleanup(made.close)
        return made

    def refused(self, made, why='wrong ticket'):
        error = self.assertRaises(channel.PeerFailed, made.receive, ALL)
        self.assertIn(why, error.reason)
        self.assertTrue(self.came.empty())

    def test_the_right_ticket(self):
        ticket = self.server.expect(self.uuid, self.came.put)
        left = self.connect(ticket)
        right = self.came.get(timeout=PATIENCE)
        right.send(Kind.READY)
        self.assertEqual(Kind.READY, left.receive(ALL).kind)

    def test_an_earlier_outage_does_not_count(self):
        left = self.connect(self.server.expect(self.uuid, self.came.put))
        right = self.came.get(timeout=PATIENCE)
        left._left = 0.0  # The last one, in pre-copy, took all there was.
        left.hurry(PATIENCE)
        left._line.hang_up()
        left.send(Kind.BEGIN, bytes(frames.lengths(
            Kind.BEGIN, frames.Bounds()).start))
        self.assertEqual(Kind.BEGIN, right.receive(ALL).kind)

    def test_refused_before_it_began(self):
        ticket = self.server.expect(self.uuid, self.came.put)
        line = link.Line.dial(*self.server.address, PATIENCE,
                              link.Patience(PATIENCE))
        self.addCleanup(line.close)
        body = frames.encode_hello(
            frames.Hello(self.uuid, bytes.fromhex(ticket)))
        line.send([frames.header(Kind.RESUME, len(body), 7), body])
        self.assertEqual(Kind.FAIL, line.exactly(frames.HEADER.size)[0])
        self.assertTrue(self.came.empty())
        self.connect(ticket)
        self.came.get(timeout=PATIENCE)

    def test_each_migration_its_own(self):
        other = str(uuid.uuid4())
        self.server.expect(self.uuid, self.came.put)
        ticket = self.server.expect(other, self.came.put)
        self.refused(self.connect(ticket))

    def test_a_wrong_ticket_changes_nothing(self):
        ticket = self.server.expect(self.uuid, self.came.put)
        self.refused(self.connect('00' * 32))
        self.connect(ticket)
        self.came.get(timeout=PATIENCE)

    def test_a_ticket_is_good_once(self):
        ticket = self.server.expect(self.uuid, self.came.put)
        self.connect(ticket)
        self.came.get(timeout=PATIENCE)
        self.refused(self.connect(ticket), 'connected already')

    def test_forgotten_and_renewed(self):
        ticket = self.server.expect(self.uuid, self.came.put)
        self.server.forget(self.uuid)
        self.refused(self.connect(ticket))
        first = self.server.expect(self.uuid, self.came.put)
        self.server.expect(self.uuid, self.came.put)
        self.refused(self.connect(first))

    def test_nobody_expected(self):
        self.refused(self.connect('00' * 32))

    def test_a_stranger_learns_nothing(self):
        with socket.create_connection(self.server.address) as stranger:
            stranger.sendall(b'GET / HTTP/1.1\r\nHost: here\r\n\r\n')
            stranger.settimeout(PATIENCE)
            try:
                self.assertEqual(b'', stranger.recv(100))
            except ConnectionResetError:
                pass

    def test_closed(self):
        self.server.close()
        self.assertRaises(link.ChannelError, self._use,
                          '00' * 32)

    def _use(self, ticket):
        self.connect(ticket).receive(ALL)

    def _no_descriptors(self, said):
        """Connect while none is free, until the server has said so.

        Returns how to free them again. The kernel reserves a descriptor
        before accept() waits, and other threads of this process may give
        one back at any time: so more than one stranger has to come.
        """
        strangers = [socket.socket() for _ in range(50)]
        taken = []
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)

        def give_back():
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            while taken:
                os.close(taken.pop())

        def take_all():
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass

        self.addCleanup(give_back)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        for stranger in strangers:
            self.addCleanup(stranger.close)
            take_all()
            stranger.connect(self.server.address)
            try:
                said.get(timeout=0.2)
            except queue.Empty:
                continue
            return give_back
        raise AssertionError('the server finds descriptors for all')

    def test_no_descriptor_is_free(self):
        said = queue.Queue()
        self.enterContext(mock.patch.object(
            server.LOG, 'error', lambda *a: said.put(a)))
        self.enterContext(mock.patch.object(server, 'PAUSE_SECONDS', 1e6))
        threads = [thread for thread in threading.enumerate()
                   if thread.name == 'data-port']
        give_back = self._no_descriptors(said)
        self.server.close()
        for thread in threads:
            thread.join(PATIENCE)
        give_back()
        self.assertFalse(any(thread.is_alive() for thread in threads))
        # It waits, and does not try for ever.
        self.assertTrue(said.empty())

    def test_a_descriptor_is_free_again(self):
        said = queue.Queue()
        self.enterContext(mock.patch.object(
            server.LOG, 'error', lambda *a: said.put(a)))
        self.enterContext(mock.patch.object(server, 'PAUSE_SECONDS', 0.01))
        self._no_descriptors(said)()
        self.connect(self.server.expect(self.uuid, self.came.put))
        self.came.get(timeout=PATIENCE)

    def test_a_taken_port(self):
        error = self.assertRaises(OSError, server.DataServer,
                                  *self.server.address)
        self.assertIn(str(self.server.address[1]), str(error))

