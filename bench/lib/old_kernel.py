#!/usr/bin/env python3
"""A kernel of before 2018 for whoever starts under it: no UDP_SEGMENT, no UDP_GRO, no UDP super-packets on a TUN.

    old_kernel.py COMMAND [ARGUMENT...]     becomes the command; needs root

Strategy: a filter of system calls (seccomp) answers for the kernel, and passes to all threads. Asking for or setting
UDP_SEGMENT (Linux 4.18) or UDP_GRO (5.0) gives ENOPROTOOPT, and TUNSETOFFLOAD with a bit of USO (6.2) gives EINVAL, as
where these aren't known. What a TUN could do before, super-packets of TCP, stays.

What it does not do: look into sendmsg's control messages, which a filter can't see. Both daemons ask by getsockopt
whether UDP_SEGMENT is there, and never put it into a message where it isn't (meshd's `os/src/udp`, wireguard-go's
`conn/features_linux.go`).

Source: seccomp(2), udp(7), include/uapi/linux/{audit,filter,if_tun,udp}.h, net/core/filter.c.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
# Places in struct seccomp_data: the call's number, the architecture, the lower halves of the second and third argument.
_NUMBER, _ARCH, _SECOND, _THIRD = 0, 4, 24, 32
# By architecture: AUDIT_ARCH_*, and the numbers of setsockopt, getsockopt and ioctl.
_CALLS = {"x86_64": (0xC000003E, 54, 55, 16), "aarch64": (0xC00000B7, 208, 209, 29)}
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
TUNSETOFFLOAD, _USO = 0x400454D0, 0x20 | 0x40


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _instructions() -> bytes:
    arch, setsockopt, getsockopt, ioctl = _CALLS[platform.machine()]
    steps = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 0, 13, arch),
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 2, 0, setsockopt),
        (_EQUAL, 1, 0, getsockopt),
        (_EQUAL, 5, 9, ioctl),
        (_LOAD, 0, 0, _SECOND),
        (_EQUAL, 0, 7, SOL_UDP),
        (_LOAD, 0, 0, _THIRD),
        (_EQUAL, 6, 0, UDP_SEGMENT),
        (_EQUAL, 5, 4, UDP_GRO),
        (_LOAD, 0, 0, _SECOND),
        (_EQUAL, 0, 2, TUNSETOFFLOAD),
        (_LOAD, 0, 0, _THIRD),
        (_ANY_BIT, 2, 0, _USO),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.ENOPROTOOPT),
        (_RETURN, 0, 0, _ERRNO | errno.EINVAL),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def pretend() -> None:
    """Puts the filter on this process, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = _instructions()
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


if __name__ == "__main__":
    pretend()
    os.execvp(sys.argv[1], sys.argv[1:])
