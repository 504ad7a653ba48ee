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

"""The library's exceptions, by what they carry."""

from amdsmi.words import AmdSmiRetCode


class AmdSmiException(Exception):
    pass


class AmdSmiLibraryException(AmdSmiException):
    def __init__(self, err_code):
        super().__init__(err_code)
        self.err_code = err_code
        name = AmdSmiRetCode(err_code).name
        self.err_info = f'AMDSMI_{name} - {name.lower()}'

    def __str__(self):
        return f'error {int(self.err_code)} ({self.err_info})'


class AmdSmiRetryException(AmdSmiLibraryException):
    def __init__(self):
        super().__init__(AmdSmiRetCode.STATUS_RETRY)


class AmdSmiTimeoutException(AmdSmiLibraryException):
    def __init__(self):
        super().__init__(AmdSmiRetCode.STATUS_TIMEOUT)


class AmdSmiParameterException(AmdSmiException):
    def __init__(self, value, expected):
        super().__init__(f'{type(value)} is not {expected}')
