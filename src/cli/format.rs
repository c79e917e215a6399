//! Which disk images are not raw: they would be written to a volume as they are, and nothing could boot or read it.

use std::path::Path;

/// What a file is, and the command that makes a raw image of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Format {
    name: &'static str,
    command: Command,
}

#[derive(Debug, PartialEq, Eq)]
enum Command {
    /// `qemu-img convert`, with this name of the format.
    Convert(&'static str),
    /// A program that writes what it decompresses to standard output.
    Decompress(&'static str),
}

/// Formats by their first bytes.
const MAGIC: &[(&[u8], &str, Command)] = &[
    (b"QFI\xfb", "qcow2", Command::Convert("qcow2")),
    (b"KDMV", "VMDK", Command::Convert("vmdk")),
    (b"COWD", "VMDK", Command::Convert("vmdk")),
    (b"# Disk DescriptorFile", "VMDK", Command::Convert("vmdk")),
    (b"vhdxfile", "VHDX", Command::Convert("vhdx")),
    (b"conectix", "VHD", Command::Convert("vpc")),
    (b"\x1f\x8b", "gzip", Command::Decompress("gzip -dc")),
    (b"\xfd7zXZ\0", "xz", Command::Decompress("xz -dc")),
    (b"\x28\xb5\x2f\xfd", "zstd", Command::Decompress("zstd -dc")),
    (b"BZh", "bzip2", Command::Decompress("bzip2 -dc")),
];

/// A VHD of a fixed size has its mark in the last sector alone.
const VHD_FOOTER: &[u8] = b"conectix";
/// Length of that sector.
pub(super) const FOOTER_BYTES: usize = 512;
/// As much as is needed of the beginning.
pub(super) const HEAD_BYTES: usize = 32;

/// The format of a file that is no raw image, by its beginning and, if it can be read, its last sector.
pub(super) fn of(head: &[u8], footer: Option<&[u8]>) -> Option<Format> {
    let known = MAGIC.iter().find(|(magic, name, _)| {
        // What follows `BZh` is a digit, and then the mark of a block.
        head.starts_with(magic) && (*name != "bzip2" || is_bzip2(head))
    });
    if let Some((_, name, command)) = known {
        let command = match command {
            Command::Convert(format) => Command::Convert(format),
            Command::Decompress(program) => Command::Decompress(program),
        };
        return Some(Format { name, command });
    }
    footer?.starts_with(VHD_FOOTER).then_some(Format {
        name: "VHD",
        command: Command::Convert("vpc"),
    })
}

fn is_bzip2(head: &[u8]) -> bool {
    let digit = head.get(3).is_some_and(|byte| (b'1'..=b'9').contains(byte));
    let mark = head.get(4..10);
    digit
        && (mark == Some(b"1AY&SY".as_slice())
            || mark == Some(b"\x17\x72\x45\x38\x50\x90".as_slice()))
}

impl Format {
    /// Why it is refused, and what to do.
    pub(super) fn advice(&self, file: &Path, volume: &str) -> String {
        let name = self.name;
        let file = file.display();
        match self.command {
            Command::Convert(format) => format!(
                "it is a {name} image and not a raw one; nothing was changed. Convert it first: \
                 qemu-img convert -f {format} -O raw {file} {file}.raw"
            ),
            Command::Decompress(program) => format!(
                "it is compressed with {name}; nothing was changed. Decompress it on the way: \
                 {program} {file} | embervault volume import --volume {volume} -"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_are_not_raw_are_known_by_their_marks() {
        for (head, name, command) in [
            (
                &b"QFI\xfb\0\0\0\x03"[..],
                "qcow2",
                "qemu-img convert -f qcow2 -O raw f f.raw",
            ),
            (
                b"KDMV\x01\0\0\0",
                "VMDK",
                "qemu-img convert -f vmdk -O raw f f.raw",
            ),
            (b"# Disk DescriptorFile\nversion=1", "VMDK", "-f vmdk"),
            (b"COWD\x01\0\0\0", "VMDK", "-f vmdk"),
            (
                b"vhdxfileM\0",
                "VHDX",
                "qemu-img convert -f vhdx -O raw f f.raw",
            ),
            (
                b"conectix\0\0\0\x02",
                "VHD",
                "qemu-img convert -f vpc -O raw f f.raw",
            ),
            (
                b"\x1f\x8b\x08\0",
                "gzip",
                "gzip -dc f | embervault volume import --volume v -",
            ),
            (b"\xfd7zXZ\0\0\x04", "xz", "xz -dc f |"),
            (b"\x28\xb5\x2f\xfd\x04", "zstd", "zstd -dc f |"),
            (b"BZh91AY&SY", "bzip2", "bzip2 -dc f |"),
            (b"BZh9\x17\x72\x45\x38\x50\x90", "bzip2", "bzip2 -dc f |"),
        ] {
            let format = of(head, None).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(format.name, name);
            let advice = format.advice(Path::new("f"), "v");
            assert!(advice.contains(command), "{advice}");
        }
        assert_eq!(of(&[0; 32], Some(b"conectix\0")).unwrap().name, "VHD");
        for raw in [
            &[0; 32][..],
            b"",
            b"\x1f",
            b"BZh9 is a text",
            b"\xeb\x63\x90 boot sector",
            b"QFI",
        ] {
            assert_eq!(of(raw, Some(&[0; 512])), None);
        }
    }
}
