# Runs a host: host.sh ROOT NAME VSWITCH. It has its own network, mount, process, IPC, UTS and cgroup namespaces, and
# control groups of its own. ROOT stays as it is: the host writes to a tmpfs above it. Prints the process number of the
# host's init, and ends with it: when standard input is closed or the init is killed.
set -e
export ROOT=$1 NAME=$2 VSWITCH=$3
OWN=$(mktemp -d "${TMPDIR:-/tmp}/$NAME.XXXXXX")
export OWN

# The host's groups: one in the only hierarchy of version 2, or one in each hierarchy of version 1.
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    GROUPS_OF_HOST=/sys/fs/cgroup/$NAME
else
    GROUPS_OF_HOST=
    for hierarchy in /sys/fs/cgroup/*; do
        # A cgroup2 beside version 1 confuses crun.
        if [ -L "$hierarchy" ] || [ "$(stat -f -c %T "$hierarchy")" != cgroupfs ]; then continue; fi
        GROUPS_OF_HOST="$GROUPS_OF_HOST $hierarchy/$NAME"
    done
fi
export GROUPS_OF_HOST

# Processes leave their groups a little after their end.
clean() {
    for try in 1 2 3 4 5 6 7 8 9 10; do
        left=
        for group in $GROUPS_OF_HOST; do
            if [ -d "$group" ]; then
                find "$group" -depth -type d -exec rmdir {} \; 2> /dev/null || true
                if [ -d "$group" ]; then left=yes; fi
            fi
        done
        [ -n "$left" ] || break
        sleep 0.2
    done
    rmdir "$OWN"
}
trap clean EXIT
for group in $GROUPS_OF_HOST; do
    mkdir "$group"
    # A new group of cpuset has no processors and accepts no process.
    for set in cpuset.cpus cpuset.mems; do
        if [ -e "$group/cgroup.clone_children" ] && [ -e "$group/$set" ]; then cat "${group%/*}/$set" > "$group/$set"; fi
    done
done

INIT='
set -e
read -r pid _ < /proc/self/stat
mount --make-rprivate /
mount -t tmpfs -o mode=755 host "$OWN"
mkdir "$OWN/upper" "$OWN/work" "$OWN/root" "$OWN/var"
mount -t overlay -o "lowerdir=$ROOT,upperdir=$OWN/upper,workdir=$OWN/work" overlay "$OWN/root"
cd "$OWN/root"
# The engines make overlays of their own: these need a file system that is none.
for directory in docker containers containerd lxc incus machines; do
    mkdir -p "$OWN/var/$directory" "var/lib/$directory"
    mount --bind "$OWN/var/$directory" "var/lib/$directory"
done
mount -t proc proc proc
mount -t sysfs sysfs sys
if [ "$GROUPS_OF_HOST" = "/sys/fs/cgroup/$NAME" ]; then
    # A group with processes gives its controllers to no other group.
    mkdir "$GROUPS_OF_HOST/init"
    echo 1 > "$GROUPS_OF_HOST/init/cgroup.procs"
    for controller in $(cat "$GROUPS_OF_HOST/cgroup.controllers"); do
        echo "+$controller" > "$GROUPS_OF_HOST/cgroup.subtree_control" || true
    done
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 cgroups sys/fs/cgroup
    for group in $GROUPS_OF_HOST; do
        hierarchy=${group%/*}
        mkdir "sys/fs/cgroup/${hierarchy##*/}"
        mount --bind "$group" "sys/fs/cgroup/${hierarchy##*/}"
    done
    for link in /sys/fs/cgroup/*; do
        if [ -L "$link" ]; then cp -P "$link" sys/fs/cgroup; fi
    done
fi
mount -t bpf bpf sys/fs/bpf
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p run/lock run/netns
touch usr/bin/vswitch
mount --bind "$VSWITCH" usr/bin/vswitch
echo "127.0.0.1 localhost" > etc/hosts
# An address without a route: a question for the world outside fails at once.
echo "nameserver 192.0.2.53" > etc/resolv.conf
echo "$NAME" > etc/hostname
echo "$NAME" > /proc/sys/kernel/hostname
ip link set lo up
echo 1 > proc/sys/net/ipv4/ip_forward
mkdir -p oldroot
# chroot alone is not enough: `docker exec` enters the mount namespace at its root.
pivot_root . oldroot
# bash adopts and reaps what engines leave without a parent.
exec chroot . /bin/bash -c "umount -l /oldroot; rmdir /oldroot; echo ready $pid; exec > /dev/null; while read -r line; do :; done"
'
# The groups are joined before the namespace is made, whose root they become.
for group in $GROUPS_OF_HOST; do echo $$ > "$group/cgroup.procs"; done
# unshare complains when the init was killed.
{ unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child=KILL sh -c 'exec 2>&3; eval "$1"' sh "$INIT" || true; } 3>&2 2> /dev/null
for group in $GROUPS_OF_HOST; do echo $$ > "${group%/*}/cgroup.procs"; done
