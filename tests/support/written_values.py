"""Values as they are written in CSV and JSON Lines, and the number of examples that the tests of surveys draw."""

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # skip shrinking of examples, which would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

INTEGERS = ["0", "7", "-12", "123456789012345", "9007199254740993", "1234567890123456789", "99999999999999999999"]
ODD_INTEGERS = ["007", "+5", "-0", " 5", "5 ", "0x1F", "1_000", "00"]
FLOATS = ["0.5", "-1.25", ".5", "5.", "1e-05", "0.12345678901234567", "12.345678901234567", "123456.12345678901"]
ODD_FLOATS = ["1.2345678901234567890", "00.5", "+0.5", "1e400", "nan", "-inf", "1,5", "1.234", "1.5e"]
WORDS = ["red", "north", "navy", "info", "infinite", "Nate", "nullable", "NAT", "n/b", "truely", "x1", "_", "i", "N"]
MISSING = ["", "NA", "NaN", "null", "n/a", "None", "NA ", " nan", "#N/A", "-nan", "inf", "INFINITY", "Na", "nUll"]
TEXTS = ["Straße", '"a,b"', '"a ""b"""', '""', "true", "False", "TRUE", "a b", "it's", "\\", "a\\b"]
TEXTS += ['"a\\"', '"x', 'a"b']
VALUES = [INTEGERS, ODD_INTEGERS, FLOATS, ODD_FLOATS, WORDS, MISSING, TEXTS]

JSON_VALUES = [
    ["0", "7", "-12", "123456789012345", "9007199254740993", "99999999999999999999"],
    ["0.5", "-1.25", "1e-05", "1E5", "0.12345678901234567", "1e400", "5.0", "-0", "-0.0"],
    ['"red"', '"Straße"', '"a\\nb"', '"2026-01-31"', '"\\ud800"', '"\x7f"', '""'],
    ["true", "false"],
    ["null"],
    ["[1]", '{"a": 1}', "[]"],
]
