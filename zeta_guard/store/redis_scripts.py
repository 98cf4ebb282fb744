"""The Lua that runs inside Redis: each script is one atomic step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Script:
    """``sha`` is what EVALSHA takes."""

    name: str
    source: str
    sha: str


def _script(name: str, source: str) -> Script:
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


RENEW_EPOCH: Final = _script(
    "renew_epoch",
    """
-- KEYS: epoch. ARGV: value seen before ('' = none), new value, milliseconds to live. Returns the value that now stands.
local current = redis.call('GET', KEYS[1]) or ''
if current == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return ARGV[2]
end
return current
""",
)

_CLAIM = """
-- KEYS: epoch, claims... ARGV: epoch value, now, owner, fingerprint, ttl of each claim..., blocks key, returned blocks key,
-- subjects... Blocks are named in ARGV because a gateway may only read them, and KEYS of EVALSHA want write permission.
-- A claim's value: resends so far (1 character), '-' owner, or '+' fingerprint (32 bytes) owner when marked as resendable.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'E' end
local claims = #KEYS - 1
local blocks = 5 + claims
if #ARGV > blocks + 1 then
  for hash = blocks, blocks + 1 do
    local found = redis.call('HMGET', ARGV[hash], unpack(ARGV, blocks + 2))
    for i = 1, #found do
      if found[i] then
        local over, reason = string.match(found[i], '^([%d.]+)|([^|]*)|')
        if over and tonumber(over) > tonumber(ARGV[2]) then return 'B' .. (i - 1) .. ':' .. reason end
      end
    end
  end
end
local owner = ARGV[3]
local value = '0-' .. owner
if claims == 1 and redis.call('SET', KEYS[2], value, 'NX', 'EX', ARGV[5]) then return 'W' end
local fresh, again = {}, {}
for i = 2, #KEYS do
  local held = redis.call('GET', KEYS[i])
  if not held then
    fresh[#fresh + 1] = i
  elseif string.byte(held, 2) == 45 then
    if string.sub(held, 3) ~= owner then return 'L' .. (i - 2) end
  elseif string.sub(held, 35) ~= owner then
    if string.sub(held, 3, 34) ~= ARGV[4] then return 'L' .. (i - 2) end
    again[i] = (tonumber(string.sub(held, 1, 1)) + 1) .. '-' .. owner
  end
end
for _, i in ipairs(fresh) do redis.call('SET', KEYS[i], value, 'EX', ARGV[i + 3]) end
for i, resent in pairs(again) do redis.call('SET', KEYS[i], resent, 'KEEPTTL') end
return 'W'
"""

CLAIM: Final = _script("claim", _CLAIM)

MARK: Final = _script(
    "mark",
    """
-- KEYS: claim. ARGV: owner, fingerprint, most resends.
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 2) == '-' .. ARGV[1] and tonumber(string.sub(held, 1, 1)) < tonumber(ARGV[3]) then
  redis.call('SET', KEYS[1], string.sub(held, 1, 1) .. '+' .. ARGV[2] .. ARGV[1], 'KEEPTTL')
end
return 1
""",
)

READ_BLOCKS: Final = _script(
    "read_blocks",
    """
-- KEYS: epoch. ARGV: epoch value, blocks key, returned blocks key, version known.
-- The empty field of each hash is its version; only a change costs more than three look-ups.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'E'} end
local version = (redis.call('HGET', ARGV[2], '') or '') .. '/' .. (redis.call('HGET', ARGV[3], '') or '')
if version == ARGV[4] then return {version} end
return {version, redis.call('HGETALL', ARGV[2]), redis.call('HGETALL', ARGV[3])}
""",
)

RETURN_BLOCKS: Final = _script(
    "return_blocks",
    """
-- KEYS: returned blocks. ARGV: version, milliseconds to live, then subject, value...
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], '', ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
""",
)

GUARDED: Final = _script(
    "guarded",
    """
-- Commands under conditions, all or nothing. ARGV: number of conditions, conditions, commands.
-- Condition: 's' key value (string equals, '' = absent) | 'h' key field value (hash field equals, '' = absent)
--            | 'n' key lowest most (fewer than most members with a score above lowest).
-- Command: number of words, words. 'KEEP' key milliseconds: the key lives at least so long.
-- Returns 1 when done, 0 when something is not as seen, -n when condition n found a set full.
local at = 2
for number = 1, tonumber(ARGV[1]) do
  local kind = ARGV[at]
  if kind == 's' then
    if (redis.call('GET', ARGV[at + 1]) or '') ~= ARGV[at + 2] then return 0 end
    at = at + 3
  elseif kind == 'h' then
    if (redis.call('HGET', ARGV[at + 1], ARGV[at + 2]) or '') ~= ARGV[at + 3] then return 0 end
    at = at + 4
  else
    if redis.call('ZCOUNT', ARGV[at + 1], '(' .. ARGV[at + 2], '+inf') >= tonumber(ARGV[at + 3]) then return -number end
    at = at + 4
  end
end
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  if ARGV[at + 1] == 'KEEP' then
    if redis.call('PTTL', ARGV[at + 2]) < tonumber(ARGV[at + 3]) then
      redis.call('PEXPIRE', ARGV[at + 2], ARGV[at + 3])
    end
  else
    redis.call(unpack(ARGV, at + 1, at + words))
  end
  at = at + words + 1
end
return 1
""",
)

TOUCH_CLIENT: Final = _script(
    "touch_client",
    """
-- KEYS: client. ARGV: now, milliseconds to live, client id, prefix of key index, prefix of institution index.
-- Only a bound client (field 'i') lives longer by use; a pending one keeps its end.
local bound = redis.call('HMGET', KEYS[1], 'i', 'k')
if not bound[1] then return 0 end
redis.call('HSET', KEYS[1], 'u', ARGV[1], 'x', tonumber(ARGV[1]) + tonumber(ARGV[2]) / 1000)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', ARGV[4] .. bound[2], ARGV[2])
redis.call('ZADD', ARGV[5] .. bound[1], ARGV[1], ARGV[3])
redis.call('PEXPIRE', ARGV[5] .. bound[1], ARGV[2])
return 1
""",
)

_TAKE = """
-- KEYS: bucket. ARGV: now, per minute, burst. Returns {allowed, tokens left}. The same arithmetic as bucket.py.
local now, rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2]) / 60, tonumber(ARGV[3])
local held = redis.call('HMGET', KEYS[1], 't', 'a')
local tokens, filled = tonumber(held[1] or burst), tonumber(held[2] or now)
tokens = math.min(burst, tokens + math.max(0, now - filled) * rate)
local allowed = 0
if tokens >= 1 then
  allowed = 1
  tokens = tokens - 1
end
redis.call('HSET', KEYS[1], 't', string.format('%.6f', tokens), 'a', string.format('%.6f', math.max(now, filled)))
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens) / rate * 1000) + 1000)
return {allowed, string.format('%.6f', tokens)}
"""

TAKE: Final = _script("take", _TAKE)

SPEND: Final = _script(
    "spend",
    f"""
-- KEYS: epoch, claims... ARGV: number of buckets, then bucket, per minute, burst of each, then the moment of taking, then the
-- arguments of 'claim'. Returns {{index, tokens left}} for the first bucket that is empty, else what 'claim' returns.
local function take(KEYS, ARGV) {_TAKE} end
local function claim(KEYS, ARGV) {_CLAIM} end
local buckets = tonumber(ARGV[1])
local moment = 2 + 3 * buckets
-- Before anything is taken: after a new epoch was learned, all of it comes again.
if redis.call('GET', KEYS[1]) ~= ARGV[moment + 1] then return 'E' end
for i = 0, buckets - 1 do
  local at = 2 + 3 * i
  local state = take({{ARGV[at]}}, {{ARGV[moment], ARGV[at + 1], ARGV[at + 2]}})
  if state[1] == 0 then return {{i, state[2]}} end
end
return claim(KEYS, {{unpack(ARGV, moment + 1)}})
""",
)

LOOK_UP: Final = _script(
    "look_up",
    """
-- KEYS: client, perhaps session. ARGV: blocks key, returned blocks key, subject of the session, then keys of cached values.
-- Returns the client's fields, the session, its block, its returned block, the cached values.
local found = {redis.call('HMGET', KEYS[1], 'r', 'u', 'x'), false, false, false}
if KEYS[2] then
  found[2] = redis.call('GET', KEYS[2])
  found[3] = redis.call('HGET', ARGV[1], ARGV[3])
  found[4] = redis.call('HGET', ARGV[2], ARGV[3])
end
for i = 4, #ARGV do found[i + 1] = redis.call('GET', ARGV[i]) end
return found
""",
)

SEE_KEY: Final = _script(
    "see_key",
    """
-- KEYS: mark. ARGV: now, milliseconds to live after this use. Returns when it was seen first, and last before this use.
-- A mark's value: first '|' last; the version before wrote the first alone.
local first, last = ARGV[1], ARGV[1]
local seen = redis.call('GET', KEYS[1])
if seen then
  first = string.match(seen, '^[^|]+')
  last = string.match(seen, '|(.+)$') or first
end
local latest = ARGV[1]
if tonumber(last) > tonumber(latest) then latest = last end
redis.call('SET', KEYS[1], first .. '|' .. latest, 'PX', ARGV[2])
return {first, last}
""",
)

REPLAY_SCRIPTS: Final = (RENEW_EPOCH, CLAIM, MARK, READ_BLOCKS, RETURN_BLOCKS)
"""What a gateway runs."""

RECORD_SCRIPTS: Final = (GUARDED, TOUCH_CLIENT, TAKE, SPEND, LOOK_UP, SEE_KEY)
"""What an authorization server runs beside them."""
