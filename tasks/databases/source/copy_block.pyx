# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=True
"""Collect the rows that COPY sends in one block of memory, without a Python object for each row.

The driver's own method makes three objects of each row, which takes longer than to decode the row. This module calls the
same functions of the same libpq, whose addresses it is given, and does not hold the interpreter's lock meanwhile.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *waiting, unsigned long count, int timeout_ms)
    short POLLIN

ctypedef int (*get_copy_data)(void *connection, char **row, int nonblocking) noexcept nogil
ctypedef int (*consume_input)(void *connection) noexcept nogil
ctypedef void (*free_memory)(void *row) noexcept nogil

cpdef enum:
    MORE = 1
    SILENT = 0
    DONE = -1
    FAILED = -2
    NO_MEMORY = -3


cdef class Block:
    """See the stub."""

    cdef char *memory
    cdef Py_ssize_t size, room
    cdef int held
    cdef get_copy_data get
    cdef consume_input consume
    cdef free_memory release

    def __cinit__(self, functions, Py_ssize_t room):
        cdef uintptr_t get, consume, release
        get, consume, release = functions
        self.get, self.consume, self.release = <get_copy_data> get, <consume_input> consume, <free_memory> release
        self.memory = <char *> malloc(room)
        if self.memory == NULL:
            raise MemoryError
        self.room = room

    def __dealloc__(self):
        free(self.memory)

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.memory, self.size, 1, flags)
        self.held += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.held -= 1

    def clear(self):
        if self.held:
            raise BufferError("the block is in use")
        self.size = 0

    def receive(self, uintptr_t connection, int socket, Py_ssize_t enough, int timeout_ms):
        cdef int found
        if self.held:
            raise BufferError("the block is in use")
        with nogil:
            found = self.fill(<void *> connection, socket, enough, timeout_ms)
        if found == NO_MEMORY:
            raise MemoryError
        return found

    cdef int fill(self, void *connection, int socket, Py_ssize_t enough, int timeout_ms) noexcept nogil:
        cdef char *row
        cdef char *larger
        cdef int size
        cdef Py_ssize_t room
        cdef pollfd waiting
        while self.size < enough:
            row = NULL
            size = self.get(connection, &row, 1)
            if size < 0:
                return DONE if size == -1 else FAILED
            if size == 0:  # the rest of the row is on its way
                waiting.fd, waiting.events, waiting.revents = socket, POLLIN, 0
                if poll(&waiting, 1, timeout_ms) <= 0:
                    return SILENT
                if not self.consume(connection):
                    return FAILED
                continue
            if self.size + size > self.room:
                room = max(self.size + size, self.room + self.room // 4)
                larger = <char *> realloc(self.memory, room)
                if larger == NULL:
                    self.release(row)
                    return NO_MEMORY
                self.memory, self.room = larger, room
            memcpy(self.memory + self.size, row, size)
            self.size += size
            self.release(row)
        return MORE
