"""Every case of the tables about commands on a trained network; in a file of its own, which runs beside the other."""

import pytest

from tests.bad_input.checking import check
from tests.bad_input.tables_of_trained import CASES


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_mistake_is_one_sentence(run, case, known_files, places):
    check(run, case, known_files, places(case))
