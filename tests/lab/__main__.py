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

"""`python3 -m tests.lab` is `python3 -m unittest`, with a quiet interrupt.

unittest ends by a traceback of all that was under way, and whoever has
pressed Ctrl-C knows why. And it keeps which tests have failed, for `tools/lab
test --failed`: all of them take a while.
"""

import sys
import unittest

from lab import places

INTERRUPTED = 130


def main() -> int:
    try:
        result = unittest.main(module=None, exit=False).result
    except KeyboardInterrupt:
        # The line has the name of the test, so far.
        print(file=sys.stderr)
        return INTERRUPTED
    names = failed(result)
    places.failed().write_text('\n'.join(names))
    return int(bool(names) or not result.testsRun)


def failed(result: unittest.TestResult) -> list[str]:
    """Return the names of tests that did not pass, as unittest takes them."""
    tests = [test for test, _ in (*result.failures, *result.errors)]
    tests += result.unexpectedSuccesses
    # Of a subtest its test: unittest runs nothing smaller.
    return sorted({getattr(test, 'test_case', test).id() for test in tests})


if __name__ == '__main__':
    sys.exit(main())
