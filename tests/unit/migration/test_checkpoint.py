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


"""Checkpoints of VFs of a real software GIM, at level stream."""

import dataclasses
import errno
import functools
import os
import pathlib
import random
import stat
import unittest
from unittest import mock

from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.migration import checkpoint
from tests import gpu_lab

S = contract.DeviceState


class CheckpointTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gim = gpu_lab.GIMProcess(gpu_lab.class_directory(cls),
                                     frame_buffer_mib=16)
        cls.addClassCleanup(cls.gim.stop)
        admin = cls.gim.connect()
        cls.who = identity.VFIdentity(**admin.call('describe')['identity'])
        admin.close()

    def setUp(self):
        self.directory = pathlib.Path(gpu_lab.directory(self))
        self.path = self.directory / 'vf'
        self.here, self.there = gpu_lab.vf_addresses(self.gim)

    # Opened when first used: a guest can't attach to a VF that is open.

    @functools.cached_property
    def source(self):
        return self.open(self.here)

    @functools.cached_property
    def target(self):
        return self.open(self.there)

    def open(self, address):
        device = self.gim.open(address)
        self.addCleanup(device.close)
        self.addCleanup(device.reset)
        return device

    def at_work(self):
        """A guest with a page table and work done in the source."""
        guest = gpu_lab.Guest(self.gim, self.here)
        self.addCleanup(guest.close)
        guest.load_driver()
        guest.submit(abi.Engine.GFX, abi.Opcode.RMW, va=abi.PAGE_BYTES,
                     length=3 * abi.PAGE_BYTES, arg0=5, arg1=3)
        guest.wait(abi.Engine.GFX)
        return guest

    def save(self, **options):
        return checkpoint.save(self.source, self.who, self.path, **options)

    def load(self, **options):
        return checkpoint.load(self.target, self.who, self.path, **options)

    def test_what_is_saved_is_loaded(self):
        self.at_work()
        saved = self.save(then=S.STOP)
        self.assertGreater(saved.bytes, 100_000)
        self.assertEqual(saved, self.load(then=S.STOP))
        self.assertEqual(bytes(self.source.frame_buffer),
                         bytes(self.target.frame_buffer))
        admin = self.gim.connect()
        self.addCleanup(admin.close)
        self.assertEqual(*(admin.call('vf_state', vf=vf)['engines']
                           for vf in (self.here, self.there)))

    def test_several_sections(self):
        self.at_work()
        saved = checkpoint.SECTION_BYTES
        self.addCleanup(setattr, checkpoint, 'SECTION_BYTES', saved)
        checkpoint.SECTION_BYTES = 10007
        self.assertGreater(self.save().bytes, 10 * checkpoint.SECTION_BYTES)
        self.load()
        self.assertEqual(bytes(self.source.frame_buffer),
                         bytes(self.target.frame_buffer))

    def test_the_device_runs_on(self):
        self.save()
        self.assertIs(S.RUNNING, self.source.state())
        self.load()
        self.assertIs(S.RUNNING, self.target.state())

    def test_it_is_on_the_disk_before_it_has_its_name(self):
        synced = []

        def fsync(fd):
            name = os.readlink(f'/proc/self/fd/{fd}')
            synced.append((name == str(self.directory), self.path.exists()))

        with mock.patch.object(os, 'fsync', autospec=True,
                               side_effect=fsync):
            self.save()
        # The file without its name, then the directory with it.
        self.assertEqual([(False, False), (True, True)], synced)

    def test_only_the_owner_may_read_it(self):
        self.save()
        self.assertEqual(0o600, os.stat(self.path).st_mode & 0o777)

    def test_a_file_before_is_kept_until_the_new_one_is_whole(self):
        self.save()
        before = self.path.read_bytes()
        admin = self.gim.connect()
        self.addCleanup(admin.close)
        admin.call('knob', vf=self.here, name='export_error',
                   value='stop-copy')
        self.addCleanup(admin.call, 'knob', vf=self.here,
                        name='export_error', value='')
        with self.assertRaises(contract.DeviceError) as caught:
            self.save()
        self.assertEqual(errno.EIO, caught.exception.errno)
        self.assertEqual(before, self.path.read_bytes())
        self.assertEqual([self.path], list(self.directory.iterdir()))
        self.assertIs(S.RUNNING, self.source.state())

    def test_two_saves_to_one_name_at_once(self):
        self.at_work()
        others, meanwhile = [self.target], []

        def fsync(fd):
            if others:
                other = checkpoint.save(others.pop(), self.who, self.path)
                meanwhile.extend((other, checkpoint.verify(self.path)))

        with mock.patch.object(os, 'fsync', autospec=True,
                               side_effect=fsync):
            saved = self.save()
        self.assertEqual(*meanwhile)
        self.assertNotIn(saved, meanwhile)
        # The one that ended last.
        self.assertEqual(saved, checkpoint.verify(self.path))
        self.assertEqual([self.path], list(self.directory.iterdir()))

    def test_what_a_killed_save_has_left(self):
        """By a process that had the number of this one."""
        left = self.directory / f'.{self.path.name}.{os.getpid()}'
        left.write_bytes(b'half')
        self.save()
        checkpoint.verify(self.path)
        self.assertEqual(b'half', left.read_bytes())

    def test_a_directory_that_can_not_be_synced(self):
        def fsync(fd):
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(errno.EIO, 'no')

        with mock.patch.object(os, 'fsync', autospec=True,
                               side_effect=fsync):
            self.assertRaises(OSError, self.save)
        checkpoint.verify(self.path)
        self.assertEqual([self.path], list(self.directory.iterdir()))

    def refused(self, text):
        """The file is refused and the device has not noticed."""
        with self.assertRaises(checkpoint.CheckpointError) as caught:
            self.load()
        self.assertIn(text, str(caught.exception))
        self.assertIs(S.RUNNING, self.target.state())

    def test_a_short_file(self):
        self.save()
        whole = self.path.read_bytes()
        for length in (0, 5, 23, 30, len(whole) // 2, len(whole) - 25,
                       len(whole) - 1):
            with self.subTest(length=length):
                self.path.write_bytes(whole[:length])
                self.refused('ends too early')

    def test_any_bit_that_changed(self):
        self.save()
        whole = self.path.read_bytes()
        rand = random.Random(7)
        places = [*range(40), *(rand.randrange(len(whole))
                                for _ in range(40)),
                  *range(len(whole) - 40, len(whole))]
        for place in places:
            with self.subTest(place=place):
                damaged = bytearray(whole)
                damaged[place] ^= 1 << rand.randrange(8)
                self.path.write_bytes(damaged)
                self.refused('')

    def test_more_than_a_checkpoint(self):
        self.save()
        self.path.write_bytes(self.path.read_bytes() + b'x')
        self.refused('more after the end')

    def test_another_kind_of_vf(self):
        self.save()
        self.who = dataclasses.replace(self.who, driver_version='9.9')
        self.refused('driver_version')

    def between_the_passes(self, change):
        """Call `change` once, when load() has verified the file."""
        changes = [change]

        class Reader(checkpoint._Reader):
            def sections(self):
                yield from super().sections()
                if changes:
                    changes.pop()()

        return mock.patch.object(checkpoint, '_Reader', Reader)

    def test_a_file_that_is_replaced_after_it_was_verified(self):
        other = self.directory / 'other'
        checkpoint.save(self.target, self.who, other)
        self.at_work()
        saved = self.save()
        with self.between_the_passes(lambda: os.replace(other, self.path)):
            self.assertEqual(saved, self.load())
        self.assertEqual(bytes(self.source.frame_buffer),
                         bytes(self.target.frame_buffer))

    def test_a_file_that_is_written_to_after_it_was_verified(self):
        """In place, with a whole checkpoint of another state or identity."""
        self.at_work()
        self.save()
        whole = self.path.read_bytes()
        others = {'state': (self.target, self.who),
                  'identity': (self.source, dataclasses.replace(
                      self.who, driver_version='9.9'))}
        for name, (device, who) in others.items():
            with self.subTest(name):
                checkpoint.save(device, who, self.path)
                other = self.path.read_bytes()
                self.path.write_bytes(whole)
                change = functools.partial(self.path.write_bytes, other)
                with (self.between_the_passes(change),
                      mock.patch.object(
                          self.target, 'set_state', autospec=True,
                          side_effect=self.target.set_state) as set_state):
                    self.refused('has changed')
                # It was never run with what it had been sent.
                set_state.assert_called_once_with(S.RESUMING)

    def test_a_load_that_the_device_refuses(self):
        """A whole file, whose stream is not one for the device."""
        self.at_work()
        device = self.source

        class Half(contract.DataStream):
            def read_into(self, view):
                return self.stream.read_into(view) if self.once() else 0

            def write(self, view):
                raise NotImplementedError

            def close(self):
                self.stream.close()

            def once(self):
                first, self.first = self.first, False
                return first

        class HalfDevice:
            address = device.address
            flags, state, reset = device.flags, device.state, device.reset

            def set_state(self, state):
                stream = Half()
                stream.stream, stream.first = device.set_state(state), True
                return None if stream.stream is None else stream

        saved = checkpoint.SECTION_BYTES
        self.addCleanup(setattr, checkpoint, 'SECTION_BYTES', saved)
        checkpoint.SECTION_BYTES = 1000
        checkpoint.save(HalfDevice(), self.who, self.path)
        with self.assertRaises(contract.DeviceError) as caught:
            self.load()
        self.assertEqual(errno.EINVAL, caught.exception.errno)
        self.assertIs(S.RUNNING, self.target.state())
