# Does what a service has no business to do, one act after the other, and says how each ended:
#   ACT <who> <act> done | ACT <who> <act> denied <why>
# perl, because every Debian has it; system calls by their numbers on x86_64.
use strict;
use warnings;
use Socket qw(AF_INET SOCK_RAW SOCK_STREAM sockaddr_in inet_aton);

my ($who, $elsewhere, $port) = @ARGV;
$| = 1;

sub act {    # each in a process of its own: what it gets ends with it
    my ($name, $do) = @_;
    my $pid = fork() // die "fork: $!";
    if ($pid == 0) {
        $! = 0;
        my $ok = $do->();
        my $why = $ok ? "" : "$!";
        print $ok ? "ACT $who $name done\n" : "ACT $who $name denied $why\n";
        exit 0;
    }
    waitpid $pid, 0;
    print "ACT $who $name denied by signal\n" if $? & 127;
}

sub call { return syscall(shift, @_) >= 0 }

sub reads {
    my ($path) = @_;
    open(my $file, "<", $path) or return 0;
    return defined readline($file);
}

act "write-outside", sub {
    open(my $file, ">", "/opt/acts/$who") or return 0;
    return print $file "x";
};
act "read-home", sub { reads("/home/acts/secret") };
act "read-root", sub { reads("/root/acts-secret") };
act "load-module", sub {
    my ($image, $options) = ("x" x 64, "");
    call(175, $image, 64, $options);
};
act "raw-socket", sub { socket(my $raw, AF_INET, SOCK_RAW, 1) };
act "ptrace", sub { call(101, 0, 0, 0, 0) };
act "mount", sub {
    my ($source, $target, $type) = ("acts", "/mnt", "tmpfs");
    call(165, $source, $target, $type, 0, 0) && call(166, $target, 0);
};
act "set-clock", sub {
    my $now = pack "qq", time, 0;
    call(227, 0, $now);
};
act "namespace", sub { call(272, 0x10000000) || call(272, 0x00020000) };
act "setuid-file", sub {
    my $path = "/tmp/acts-$who-$$";
    open(my $file, ">", $path) or return 0;
    my $ok = chmod 04755, $path;
    my $why = $!;
    unlink $path;
    $! = $why;
    return $ok;
};
act "kernel-log", sub { my $text = "\0" x 4096; call(103, 3, $text, 4096) };
act "other-device", sub { open(my $file, "<", "/dev/acts") };
act "other-processes", sub { -d "/proc/1" };
act "write-and-execute", sub { call(9, 0, 4096, 7, 0x22, -1, 0) };
act "connect-elsewhere", sub {
    socket(my $tcp, AF_INET, SOCK_STREAM, 6) or return 0;
    local $SIG{ALRM} = sub { $! = 110; die };
    alarm 3;
    return eval { connect $tcp, sockaddr_in($port, inet_aton($elsewhere)) };
};
