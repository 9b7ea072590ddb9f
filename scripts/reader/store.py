"""Objects in a directory."""

import os
import re
import stat

from .primitives import Refused, need

PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


def is_name(name):
    parts = name.split("/")
    return len(name) <= 512 and parts[0] != "tmp" and all(PART.fullmatch(part) for part in parts)


class Store:
    def __init__(self, folder):
        need(os.path.isdir(folder), f"{folder}: there is no folder")
        self.folder = folder

    def path(self, name):
        need(is_name(name), f"{name!r} is no name of an object")
        # No part of a name starts with a dot, so it stays below the folder; links on the way are refused.
        parts, path = name.split("/"), self.folder
        for part in parts[:-1]:
            path = os.path.join(path, part)
            if os.path.islink(path):
                raise Refused(f"{name}: a link is on its way")
        return os.path.join(path, parts[-1])

    def list(self, folder):
        """Names of the objects of a folder, in no order; entries that can't be objects are passed over."""
        names = []
        try:
            with os.scandir(self.path(folder)) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}"
                    if not is_name(name) or entry.is_dir(follow_symlinks=False):
                        continue
                    need(entry.is_file(follow_symlinks=False), f"{name}: neither a file nor a folder")
                    names.append(name)
        except FileNotFoundError:
            pass
        return names

    def folders(self, folder):
        try:
            with os.scandir(self.path(folder)) as entries:
                return [e.name for e in entries if PART.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def open(self, name):
        """An open file, and its size; None if the object isn't there."""
        try:
            handle = os.open(self.path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refused(f"{name}: {error.strerror}") from error
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            os.close(handle)
            raise Refused(f"{name}: not a file")
        return os.fdopen(handle, "rb"), found.st_size

    def find(self, name, limit):
        """All of an object, at most `limit` + 1 bytes of it (so that a longer one is seen); None if it isn't there."""
        opened = self.open(name)
        if opened is None:
            return None
        with opened[0] as file:
            return file.read(limit + 1)

    def read(self, name, limit):
        data = self.find(name, limit)
        need(data is not None, f"{name}: not there")
        need(len(data) <= limit, f"{name}: longer than {limit} bytes")
        return data
