"""Mutants: deliberate faults in the code, each of which some test must see. ``make mutants`` tries them all.

The lists are ``*.toml`` beside this file, one for each subject. A mutant is a table named by what it breaks:

    [rejected-rows-after-the-commit]
    file = "tasks/steps/commit_part.py"
    old = '''text that occurs exactly once in the file'''
    new = '''text that replaces it'''
    tests = ["tests/unit/steps/test_score_part.py"]
    why = "what would happen to a user"

`tests` names the tests that should see it: files, or single tests as ``file::name``. They should take seconds. A mutant
that no test can see has `survives` as well, with the reason; it is an error if a test sees it after all.
"""
