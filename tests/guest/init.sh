#!/bin/sh
# The guest's first process: a system with cgroup v2 only, then the job, then the verdict.
# The first serial port is the console; the verdict goes to the second one.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
for link in "fd /proc/self/fd" "stdin /proc/self/fd/0" "stdout /proc/self/fd/1" "stderr /proc/self/fd/2"; do
    set -- $link
    [ -e "/dev/$1" ] || ln -s "$2" "/dev/$1"
done
ip link set lo up
echo guest >/proc/sys/kernel/hostname
stty -F /dev/ttyS0 -onlcr cols 160 2>/dev/null
echo "guest: Linux $(uname -r), $(cat /sys/fs/cgroup/cgroup.controllers), up $(cut -d' ' -f1 /proc/uptime) s"

cd /opt/hearth && tar -xf /dev/nvme1n1 --no-same-owner
chown -R user:user /home/user

sh ./.guest-job
verdict=$?

echo "guest: job ended with $verdict, up $(cut -d' ' -f1 /proc/uptime) s"
echo "verdict=$verdict" >/dev/ttyS1
# -no-reboot turns this into the end of the emulator; the sync reboot would only wait for a disk
# whose writes are thrown away.
echo b >/proc/sysrq-trigger
