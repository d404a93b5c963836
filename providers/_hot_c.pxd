cimport cython

@cython.locals(position=Py_ssize_t, length=Py_ssize_t, quote=Py_ssize_t, backslash=Py_ssize_t, character=Py_UCS4)
cpdef tuple scan(str fragment, long depth, bint in_string, bint after_backslash)

@cython.locals(found=list, line=bytes, joined=bytes)
cpdef tuple frames(list lines, list data, str event, Py_ssize_t held, object make)

cpdef bytes valid(bytes data)
