vcl 4.1;

# Varnish before oar-tiles serve, or before a web server of a directory, for [[purge]] provider = "varnish" (docs/cdn.md).
# Needs the package varnish-modules for tags (xkey).

import purge;
import std;
import xkey;

backend tiles {
    .host = "127.0.0.1";
    .port = "8080";
}

# Who may purge: who knows the token in /etc/varnish/purge-token, such as openssl rand -hex 32 makes; [[purge]] reads the same from token_file.
# An address alone says nothing: behind a TLS proxy of this machine, everybody comes from 127.0.0.1. Without the file nobody may purge.
# And only from the machine on which oar-tiles runs.
acl purgers {
    "127.0.0.1";
    "::1";
}

sub vcl_recv {
    if (req.method == "PURGE" || req.method == "BAN") {
        set req.http.x-purge-token = regsub(std.fileread("/etc/varnish/purge-token"), "\s+$", "");
        if (!client.ip ~ purgers || req.http.x-purge-token !~ "^[0-9A-Za-z_-]{32,}$"
            || req.http.Authorization != "Bearer " + req.http.x-purge-token) {
            return (synth(403, "not a purger"));
        }
        unset req.http.x-purge-token;
        unset req.http.Authorization;
        # Tags: everything that was sent with one of them.
        if (req.http.xkey-softpurge) {
            return (synth(200, "tags: " + xkey.softpurge(req.http.xkey-softpurge)));
        }
        if (req.http.xkey-purge) {
            return (synth(200, "tags: " + xkey.purge(req.http.xkey-purge)));
        }
        # A prefix. The lurker compares old objects with it in the background: it needs a condition on obj alone.
        if (req.method == "BAN") {
            if (std.ban("obj.http.x-cached-host == " + req.http.host + " && obj.http.x-cached-url ~ ^" + req.url)) {
                return (synth(200, "banned"));
            }
            return (synth(400, std.ban_error()));
        }
        # One address with all its variants: see vcl_hit and vcl_miss. Without waiting for an answer that is under way from the server: a
        # server that hangs would hold up the purge.
        set req.hash_ignore_busy = true;
        return (hash);
    }
    # Tiles depend on nothing but their address.
    unset req.http.Cookie;
    # A query may hold parameters of a tile (?country=LI), and a purge by address does not reach it: it is neither kept nor answered from here.
    # If many ask for the same parameters, leave these three lines out, and purge by tag, which reaches all: each query has a copy of its own then, and
    # filtered tiles are kept as long as others (docs/filters.md, "Filters behind a CDN").
    if (req.url ~ "\?") {
        return (pass);
    }
}

sub oar_purge {
    if (req.method == "PURGE") {
        if (req.http.x-purge == "soft") {
            # Stale from now on, and kept: whoever asks next waits for a conditional request, which is cheap if the tile is as it was.
            purge.soft(0s, 0s);
        } else {
            purge.hard();
        }
        return (synth(200, "purged"));
    }
}

sub vcl_hit {
    call oar_purge;
}

sub vcl_miss {
    call oar_purge;
}

sub vcl_backend_response {
    set beresp.http.x-cached-host = bereq.http.host;
    set beresp.http.x-cached-url = bereq.url;
    # serve says which tags a tile carries in Surrogate-Key ([serve] headers).
    if (beresp.http.Surrogate-Key) {
        set beresp.http.xkey = beresp.http.Surrogate-Key;
    }
    # Nobody gets an old tile. With a grace of some seconds the first one after a purge would, instead of waiting.
    set beresp.grace = 0s;
    set beresp.keep = 1d;
    # An error is not kept: the tile may come into being.
    if (beresp.status >= 400) {
        set beresp.ttl = 0s;
        set beresp.uncacheable = true;
    }
}

sub vcl_deliver {
    unset resp.http.x-cached-host;
    unset resp.http.x-cached-url;
    unset resp.http.xkey;
    unset resp.http.Surrogate-Key;
    set resp.http.X-Cache = "miss";
    if (obj.hits > 0) {
        set resp.http.X-Cache = "hit";
    }
}
