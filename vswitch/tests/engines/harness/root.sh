# Makes a root file system with engines: root.sh DIRECTORY SUITE PACKAGES, with commas between them.
# It gets its name when it is complete, so a run that is stopped leaves nothing half done.
set -e
final=$1 suite=$2 packages=$3 new=$1.new
mkdir -p "${final%/*}"
exec 9> "$final.lock"
flock 9
if [ -d "$final" ]; then exit 0; fi
rm -rf --one-file-system "$new"

# No service starts when its package is installed. A small file system of busybox lies ready: as a
# directory, and as an archive for `docker import`.
export DENY='printf "#!/bin/sh\nexit 101\n" > "$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"'
export BUSYBOX='set -e
mkdir -p "$1/usr/share/vswitch/busybox"
cd "$1/usr/share/vswitch/busybox"
mkdir -p usr/bin etc tmp proc sys dev root run
ln -s usr/bin bin
cp "$1/bin/busybox" usr/bin/busybox
for applet in $(usr/bin/busybox --list); do [ -e "usr/bin/$applet" ] || ln -s busybox "usr/bin/$applet"; done
echo "root:x:0:0:root:/root:/bin/sh" > etc/passwd
echo "root:x:0:" > etc/group
printf "ID=busybox\nNAME=busybox\n" > etc/os-release
tar -cf ../busybox.tar .'
unshare --mount --propagation private --pid --fork --kill-child=KILL --mount-proc \
    mmdebstrap --mode=root --variant=essential --include="$packages" --skip=check/empty \
    --essential-hook="$DENY" --customize-hook="$BUSYBOX" \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" "$new"
chmod 755 "$new"
mv "$new" "$final"
# Roots of other recipes with this name, unless a host uses one.
name=${final%-*}
for other in "$name"-????????; do
    [ "$other" = "$final" ] || grep -qsF "lowerdir=$other," /proc/[0-9]*/mountinfo || rm -rf --one-file-system "$other" "$other.lock"
done
rm -f "$final.lock"
