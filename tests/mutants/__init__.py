"""Mutants: deliberate faults in the code. For each mutant, a test must fail. ``make mutants`` tries all mutants.

The lists are ``*.toml`` beside this file, one for each subject. A mutant is a table named by what it breaks:

    [rejected-rows-after-the-commit]
    file = "tasks/steps/commit_part.py"
    old = '''text that occurs exactly once in the file'''
    new = '''text that replaces it'''
    tests = ["tests/unit/steps/test_score_part.py"]
    why = "what would happen to a user"

`tests` names the tests that should fail: files, or single tests as ``file::name``. They should take seconds. If no test
can notice a mutant, the table also has `survives`, with the reason. Then a failing test is an error.
"""
