"""Has pytest say what differs where an assertion of the shared suites fails."""

import pytest

pytest.register_assert_rewrite("store_suite", "store_damage_suite", "store_flip_suite")
