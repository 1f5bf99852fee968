//! The wires: a bridge in a namespace of its own, the switch, and a cable from it to each workload's namespace.
//! Every lab has the same addresses; since its switch has no cable to anywhere else, labs never meet.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use super::error::{During, Error};
use super::keeper::Keeper;
use super::namespace::Namespace;
use super::privileges::tool;

/// An IPv4 and an IPv6 address of the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// `10.75.0.0/16` for workloads, `10.96.0.0/16` for services.
    pub v4: Ipv4Addr,
    /// `fd00:6b69::/64` for workloads, `fd00:6b69:0:96::/64` for services.
    pub v6: Ipv6Addr,
}

impl Addresses {
    fn workload(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        Self {
            v4: Ipv4Addr::new(10, 75, high, low),
            v6: Ipv6Addr::new(0xfd00, 0x6b69, 0, 0, 0, 0, 0, number),
        }
    }

    fn service(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        Self {
            v4: Ipv4Addr::new(10, 96, high, low),
            v6: Ipv6Addr::new(0xfd00, 0x6b69, 0, 0x96, 0, 0, 0, number),
        }
    }

    /// Both.
    #[must_use]
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// The switch of one lab.
#[derive(Debug)]
pub struct Network {
    switch: Namespace,
    ip: PathBuf,
    workloads: AtomicU16,
    services: AtomicU16,
}

impl Network {
    /// Builds the switch.
    ///
    /// # Errors
    /// Without `ip`, or the right to make namespaces.
    pub fn new(keeper: &Keeper) -> Result<Self, Error> {
        let ip = tool("ip", "iproute2")?;
        let switch = Namespace::new().during(|| "make a network namespace".to_owned())?;
        keeper.hold(&switch)?;
        // Number 1 is the switch's own, the way out of every workload that has one.
        let network = Self {
            switch,
            ip,
            workloads: AtomicU16::new(2),
            services: AtomicU16::new(1),
        };
        let own = Addresses::workload(1);
        // Without snooping, neighbour discovery needs nobody's membership report to get through.
        let lines = format!(
            "link set lo up\n\
             link add mesh type bridge mcast_snooping 0 forward_delay 0\n\
             link set mesh addrgenmode none\n\
             link set mesh up\n\
             addr add {}/16 dev mesh\n\
             addr add {}/64 dev mesh nodad\n",
            own.v4, own.v6
        );
        network.configure(&network.switch, &lines)?;
        Ok(network)
    }

    /// Makes a namespace, connects it, gives it the next addresses.
    ///
    /// With `way_out`, packets to addresses that nobody here has leave the application, which is what lets a capture
    /// redirect them; without, dialling such an address fails at once.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn attach(&self, keeper: &Keeper, way_out: bool) -> Result<(Namespace, Addresses), Error> {
        let namespace = Namespace::new().during(|| "make a network namespace".to_owned())?;
        keeper.hold(&namespace)?;
        let number = self.workloads.fetch_add(1, Ordering::Relaxed);
        let addresses = Addresses::workload(number);
        self.configure(
            &self.switch,
            &format!(
                "link add port{number} type veth peer name eth0 netns {}\n\
                 link set port{number} addrgenmode none\n\
                 link set port{number} master mesh up\n",
                namespace.path().display()
            ),
        )?;
        let mut lines = format!(
            "link set lo up\n\
             link set eth0 addrgenmode none\n\
             link set eth0 up\n\
             addr add {}/16 dev eth0\n\
             addr add {}/64 dev eth0 nodad\n",
            addresses.v4, addresses.v6
        );
        if way_out {
            let gateway = Addresses::workload(1);
            lines += &format!(
                "route add default via {}\nroute add ::/0 via {}\n",
                gateway.v4, gateway.v6
            );
        }
        self.configure(&namespace, &lines)?;
        Ok((namespace, addresses))
    }

    /// Pulls the cable of a workload: nobody answers at its addresses from then on.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn detach(&self, addresses: Addresses) -> Result<(), Error> {
        let [high, low] = [addresses.v4.octets()[2], addresses.v4.octets()[3]];
        let number = u16::from_be_bytes([high, low]);
        self.configure(&self.switch, &format!("link del port{number}\n"))
    }

    /// The next pair of service addresses. Nobody has them: they exist for the captures to redirect.
    #[must_use]
    pub fn service_addresses(&self) -> Addresses {
        Addresses::service(self.services.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs lines of `ip -batch` inside a namespace.
    fn configure(&self, namespace: &Namespace, lines: &str) -> Result<(), Error> {
        let mut command = Command::new(&self.ip);
        command
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let run = || -> std::io::Result<std::process::Output> {
            let mut child = command.spawn()?;
            if let Some(mut input) = child.stdin.take() {
                input.write_all(lines.as_bytes())?;
            }
            child.wait_with_output()
        };
        let output = namespace
            .run(run)
            .flatten()
            .during(|| "run ip".to_owned())?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Command {
            command: format!("ip -batch ({})", lines.trim().replace('\n', "; ")),
            output: stderr,
        })
    }
}
