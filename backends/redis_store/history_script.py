"""What Redis itself does with a record of a history: `appended` and `merged` of `backends.histories`, in Lua.

A script runs alone, so to look up and to add is one step. Times are doubles there, exact up to the year 2255.

    tandem:<model>:history:<layout>:span          the last load: since, until, its name, as three int64
    tandem:<model>:history:<layout>:properties    JSON
    tandem:<model>:history:<layout>:of:<entity>   a record
    tandem:<model>:histories                      hash: every layout, and when it was loaded
"""

from hashlib import sha1

from backends.histories import REACH
from backends.redis_store.address import Command
from models.history import History

# ARGV of both: what is done, bytes of an event, longest window, reach, most events.
# `append`: KEYS span and record; the event, '1' to record it. Returns span and record as they were; false without them.
# `merge`: KEYS record; the span, complete_since, the lake's events, '1' to pass over a record of this very load.
_TEXT = """
local what, size = ARGV[1], tonumber(ARGV[2])
local longest, reach, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local HEAD = 16
local function int(data, at) return (struct.unpack('<i8', data, at)) end
local function time(data, i) return int(data, HEAD + 1 + i * size) end
local function count(data) return (#data - HEAD) / size end
local function bound(data, limit, or_equal)
    local low, high = 0, count(data)
    while low < high do
        local middle = math.floor((low + high) / 2)
        local t = time(data, middle)
        if t < limit or (or_equal and t == limit) then low = middle + 1 else high = middle end
    end
    return low
end
local function part(data, first, past) return string.sub(data, HEAD + 1 + first * size, HEAD + past * size) end
local function trimmed(data)
    local n = count(data)
    local newest = time(data, n - 1)
    local same = bound(data, newest, false)
    local past = math.min(same + most + 1, n)
    local first = bound(data, newest - longest, false)
    if same - first > most then first = math.max(first, bound(data, time(data, same - most - 1), true)) end
    local spare = bound(data, newest - longest - reach, false)
    local too_many = past - (2 * most + 1)
    if too_many > 0 then spare = math.max(spare, bound(data, time(data, too_many - 1), true)) end
    first = math.min(first, spare)
    local since = int(data, 1)
    if first > 0 then since = math.max(since, time(data, first - 1) + 1) end
    return struct.pack('<i8', since) .. string.sub(data, 9, HEAD) .. part(data, first, past)
end
local function has(data, key)
    local at = string.find(data, key, HEAD + 1, true)
    while at do
        if (at - HEAD - 1) % size == 8 then return true end
        at = string.find(data, key, at + 1, true)
    end
    return false
end
if what == 'append' then
    local span, record, event = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]), ARGV[6]
    if not span then return false end
    if ARGV[7] == '1' then
        local data = record or (string.sub(span, 1, 8) .. string.sub(span, 17, 24))
        if not has(data, string.sub(event, 9, 16)) then
            local place = bound(data, int(event, 1), true)
            local grown = string.sub(data, 1, HEAD) .. part(data, 0, place) .. event .. part(data, place, count(data))
            redis.call('SET', KEYS[2], trimmed(grown))
        end
    end
    return {span, record}
end
local span, since, events, other = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local record = redis.call('GET', KEYS[1])
if other == '1' and (not record or string.sub(record, 9, HEAD) == string.sub(span, 17, 24)) then return 0 end
if record then
    local until_ = int(span, 9)
    events = events .. part(record, bound(record, until_, false), count(record))
    if int(record, 1) > until_ then since = string.sub(record, 1, 8) end
end
if events == '' then
    redis.call('DEL', KEYS[1])
    return 0
end
local merged = trimmed(since .. string.sub(span, 17, 24) .. events)
redis.call('SET', KEYS[1], merged)
return #merged
"""

_SCRIPT = "\n".join(line.strip() for line in _TEXT.strip().splitlines())
_DIGEST = sha1(_SCRIPT.encode()).hexdigest()  # noqa: S324  # Redis's own name for it


class Script:
    """Makes the commands for records of one history."""

    def __init__(self, history: History) -> None:
        numbers = (history.dtype.itemsize, history.longest, REACH, history.limits.max_events)
        self._how = tuple(str(number).encode() for number in numbers)

    def appends(self, span: bytes, records: list[bytes], events: list[bytes], record: list[bool]) -> list[Command]:
        """Return a command for each event. The first brings the script, so that Redis knows it in any case."""
        rows = zip(records, events, record, strict=True)
        return [
            (*_begin(i), 2, span, key, b"append", *self._how, event, b"1" if kept else b"0")
            for i, (key, event, kept) in enumerate(rows)
        ]

    def merges(self, span: bytes, records: list[bytes], lake: list[tuple[bytes, bytes]]) -> list[Command]:
        """Return a command for each record, of its `complete_since` and its events in the lake, packed."""
        rows = zip(records, lake, strict=True)
        return [
            (*_begin(i), 1, key, b"merge", *self._how, span, since, events, b"0")
            for i, (key, (since, events)) in enumerate(rows)
        ]

    def sweeps(self, span: bytes, since: bytes, records: list[bytes]) -> list[Command]:
        """Return a command for each record, that takes the past from those that were not part of the load."""
        return [(*_begin(i), 1, key, b"merge", *self._how, span, since, b"", b"1") for i, key in enumerate(records)]


def _begin(number: int) -> Command:
    return ("EVALSHA", _DIGEST) if number else ("EVAL", _SCRIPT)
