"""Embedded services for development, demonstrations and tests.

This package replaces Redis, R2 and a deployed worker on one machine. Code that a deployment needs must not be in this
package. All its modules except `demo` may import packages of dev-requirements.txt. The tests and ``scoreline dev``
import this package.
"""
