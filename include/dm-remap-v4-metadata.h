/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The v4 metadata of dm-remap as it stands on a spare, for readers in C. docs/format.md says what
 * every byte means; a test holds this file, that page and the Rust types together.
 *
 * Everything is little endian. Works in the kernel and in user space; where there is no
 * <linux/types.h>, the types come from <stdint.h>.
 */
#ifndef DM_REMAP_V4_METADATA_H
#define DM_REMAP_V4_METADATA_H

#ifdef __linux__
#include <linux/types.h>
#else
#include <stdint.h>
typedef uint8_t __u8;
typedef uint16_t __le16;
typedef uint32_t __le32;
typedef uint64_t __le64;
#endif

#define REMAP4_MAGIC "DMREMAP4"
#define REMAP4_SIGNATURE \
	{ 0x89, 'd', 'm', 'r', 0x0d, 0x0a, 0x1a, 0x0a, 0x3e, 0x91, 0xc7, 0x5b, 0x62, 0xf4, 0xa8, 0xd0 }
#define REMAP4_FORMAT 4
#define REMAP4_BLOCK_MAGIC "DR4B"

#define REMAP4_BLOCK_SIZE 4096
#define REMAP4_COPIES 5
/* Sectors of 512 bytes from the start of the part of the spare that the set uses. */
#define REMAP4_SLOTS { 0, 1024, 2048, 4096, 8192 }
#define REMAP4_SLOT_SECTORS 1024
#define REMAP4_SLOT_BLOCKS 127
#define REMAP4_EXTENSIONS 9216
#define REMAP4_MAX_BLOCKS 524288
#define REMAP4_MIN_SPARE_SECTORS 16384

#define REMAP4_MAX_SPARES 8
#define REMAP4_PAST_HISTORIES 8
#define REMAP4_SETTING_SLOTS 24
#define REMAP4_NAME_BYTES 64
#define REMAP4_LINE_BYTES 504
#define REMAP4_PATH_BYTES 32
#define REMAP4_HARDWARE_ID_BYTES 32
#define REMAP4_GROUPS 6
#define REMAP4_BLOCK_ENTRIES 252

/* identification.state */
#define REMAP4_STATE_CREATING 0x1

/* features.incompatible */
#define REMAP4_FEATURE_BAD_PLACES 0x1
#define REMAP4_FEATURE_LOST 0x2
#define REMAP4_FEATURE_REPLACING 0x4

enum remap4_commit_kind {
	REMAP4_COMMIT_CREATE = 1,
	REMAP4_COMMIT_REMAP = 2,
	REMAP4_COMMIT_UNREMAP = 3,
	REMAP4_COMMIT_AUTO = 4,
	REMAP4_COMMIT_SETTINGS = 5,
	REMAP4_COMMIT_SAVE = 6,
	REMAP4_COMMIT_RECOVER = 7,
	REMAP4_COMMIT_MEMBERS = 8,
	REMAP4_COMMIT_IDENTITY = 9,
	REMAP4_COMMIT_NEW_MAIN = 10,
	REMAP4_COMMIT_RENAME = 11,
	REMAP4_COMMIT_RESIZE = 12,
};

enum remap4_spare_state {
	REMAP4_SPARE_UNUSED = 0,
	REMAP4_SPARE_ACTIVE = 1,
	REMAP4_SPARE_AWAY = 2,
	REMAP4_SPARE_LEFT = 3,
	REMAP4_SPARE_FAILED = 4,
	REMAP4_SPARE_JOINING = 5,
};

/*
 * What this is and where it belongs. Differs between the copies of one
 * commit.
 */
struct remap4_identification {
	__u8 magic[8];	/* `DMREMAP4` */
	__u8 signature[16];	/* The fixed sixteen bytes of this format */
	__le32 format;	/* 4 */
	__le32 size;	/* Bytes of the header, 4096 */
	__le16 copy;	/* Which copy on its spare this is, 0 to 4 */
	__le16 spare;	/* On which member of the set it stands */
	__le32 state;	/* Bit 0: a creation that has not got further than its marks */
	__le64 durable_version;	/* The newest version known to be durable on every member when this copy was written */
	__le64 stood_version;	/* The same number, where whoever wrote it has seen that version stand in one place on each active member before. Otherwise another one */
	__u8 reserved[4];	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* A history that was left, and its last version. */
struct remap4_past {
	__le64 history;	/* Its random number */
	__le64 ended;	/* The last version that belongs to it */
} __attribute__((packed));

/* Which state of the set this is, and where it comes from. */
struct remap4_version {
	__le64 version;	/* Raised by every commit */
	__le64 history;	/* The history that the version belongs to */
	__le64 created;	/* When the set was created, in seconds since 1970 */
	__le64 committed;	/* When this version was committed, in seconds since 1970 */
	__le32 kind;	/* What the commit did */
	__le32 past_count;	/* How many of `past` are used */
	struct remap4_past past[REMAP4_PAST_HISTORIES];	/* The histories before this one, the last one first */
	__u8 carried[REMAP4_PAST_HISTORIES];	/* For each of `past`, bit per member that was active in it and went on from its end */
	__u8 reserved[12];	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* Which set this is. */
struct remap4_set {
	__u8 uuid[16];	/* Drawn when the set is created, never changed */
	__u8 name[REMAP4_NAME_BYTES];	/* The name that people gave it, UTF-8, padded with zeroes */
	__le64 main_sectors;	/* Sectors of main that the target maps */
	__le64 main_start;	/* The first of them on the main device */
	__le32 spares;	/* How many of the fingerprints and spares are used, those that left included */
	__le32 flags;	/* Zero */
	__u8 reserved[20];	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* What a reader must understand. */
struct remap4_features {
	__le64 compatible;	/* A reader that does not know one of these goes on */
	__le64 read_only_compatible;	/* A reader that does not know one of these changes nothing */
	__le64 incompatible;	/* A reader that does not know one of these refuses */
	__u8 reserved[36];	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* The shape of the table and what holds its blocks together. */
struct remap4_shape {
	__le32 blocks;	/* Table blocks in use: those with an index below this */
	__le32 capacity;	/* Table blocks that each copy has room for */
	__le64 entries;	/* Entries in all table blocks */
	__le64 digest;	/* The digest over (index, version, checksum) of all table blocks in use */
	__le64 remapped;	/* Sectors of main that are remapped */
	__le64 pending;	/* Sectors of main that are pending */
	__le64 retired;	/* Sectors of spares that are retired */
	__le32 reserved0;	/* Zero */
	__u8 reserved[8];	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* What a device is recognised by. */
struct remap4_fingerprint {
	__u8 partition_uuid[16];	/* Of the partition that the device is; zero when not known */
	__u8 hardware_kind;	/* What kind of identifier `hardware_id` is; 0 none */
	__u8 hardware_len;	/* Bytes of it that count */
	__le16 known;	/* Which of the fields were known when it was taken */
	__u8 hardware_id[REMAP4_HARDWARE_ID_BYTES];	/* The device's own identifier */
	__le64 serial_hash;	/* A hash of its serial number */
	__le64 sectors;	/* Its size in sectors */
	__u8 filesystem_uuid[16];	/* Of the filesystem found on it */
	__le32 logical_block;	/* Bytes of its logical block */
	__le32 physical_block;	/* Bytes of its physical block */
	__u8 path[REMAP4_PATH_BYTES];	/* The end of the path it had, UTF-8, padded with zeroes: a hint */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* What the set knows about one of its spares. */
struct remap4_spare {
	__u8 uuid[16];	/* Drawn when it joined the set */
	__u8 order;	/* Its place in the order in which spares are filled; 0 is the primary */
	__u8 state;	/* Its state; 0 for a place in the list that is not used */
	__u8 health;	/* 0 not known, 1 good, 2 worrying, 3 bad */
	__u8 copies_out;	/* Bit per copy on it that was left out of this commit */
	__le32 had_version;	/* Of one that is away: the low half of the newest version that was known to be durable on it when it went; 0 for not known */
	__le64 last_checked;	/* When its health was last looked at, in seconds since 1970 */
	__le64 used_start;	/* The first sector of the device that the set uses */
	__le64 used_sectors;	/* How many sectors of it the set uses */
	__le64 since_version;	/* The version in which it took on its state */
	__u8 successor[16];	/* Of the member that took its place; zero when there is none */
	__le32 reserved1;	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* The table line, as people gave it. */
struct remap4_line {
	__le16 len;	/* Bytes of the text that count */
	__le16 flags;	/* Bit 0: the text was longer and has been cut */
	__u8 text[REMAP4_LINE_BYTES];	/* The part of the line behind the target's name, UTF-8 */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* Every setting, and every setting as it was before the last change. */
struct remap4_settings {
	__le32 present;	/* Bit per slot: whether the setting was set; otherwise its default holds */
	__le32 present_before;	/* The same, before the last change */
	__le64 value[REMAP4_SETTING_SLOTS];	/* By slot */
	__le64 value_before[REMAP4_SETTING_SLOTS];	/* By slot, before the last change */
	__le32 reserved;	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* What assembly goes by. */
struct remap4_assembly {
	__le32 required;	/* Bit per spare without which the set must not be assembled unless told so */
	__le32 primary;	/* Which spare is the primary */
	__le32 flags;	/* Bit 0: ask before acting. Bit 1: without members that are known to be away too */
	__le32 min_match;	/* The least confidence of a match, in percent */
	__u8 reserved[44];	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* Counts that outlive a reboot. */
struct remap4_statistics {
	__le64 commits;	/* Commits */
	__le64 auto_remaps;	/* Remaps made because a write failed */
	__le64 manual_remaps;	/* Remaps made because a person asked */
	__le64 unremaps;	/* Extents brought back to main */
	__le64 pending_marks;	/* Extents marked pending */
	__le64 retired_places;	/* Places retired */
	__le64 main_read_errors;	/* Read errors of main */
	__le64 main_write_errors;	/* Write errors of main */
	__le64 spare_read_errors;	/* Read errors of spares */
	__le64 spare_write_errors;	/* Write errors of spares */
	__le64 activations;	/* Activations */
	__le64 copies_rebuilt;	/* Copies that had to be rebuilt */
	__le64 scans;	/* Scans that came to the end of main */
	__le64 migrations;	/* Migrations */
	__u8 reserved[12];	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* How far the scan is. All zero, its checksum too, where nothing has ever been scanned. */
struct remap4_scan {
	__le32 state;	/* 0 none is under way, 1 one is, 2 one is paused */
	__le32 device;	/* The device that is being read: 0 main, 1 and more a spare, by its number and one */
	__le64 position;	/* The first sector of it that has not been read */
	__le64 started;	/* When the run that is under way, or the last one, began, in seconds since 1970 */
	__le64 ended;	/* When the last run came to its end, in seconds since 1970; 0 for never */
	__le64 unreadable;	/* Sectors that could not be read in that run */
	__le64 slow;	/* Sectors that were read only with effort in that run */
	__u8 reserved[12];	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* What has been counted of one device lately, in parts of 256: 256 is one. */
struct remap4_device_health {
	__le32 recent;	/* Errors; half of them are forgotten in a day */
	__le32 longer;	/* Errors; half of them are forgotten in 16 days */
	__le32 slow;	/* Blocks that were read only with effort; half of them are forgotten in 16 days */
	__le32 flags;	/* Bit 0: people have been told that it is in a bad way */
} __attribute__((packed));

/*
 * What the health of the devices is reckoned from. All zero, its checksum too,
 * where there has never been anything to count.
 */
struct remap4_health {
	__le64 recent_at;	/* The moment that the counts `recent` are of, in seconds since 1970 */
	__le64 longer_at;	/* The moment that the other counts are of */
	__le64 filled;	/* Sectors of spares that came into use, in parts of 256; half are forgotten in 16 days */
	struct remap4_device_health devices[1 + REMAP4_MAX_SPARES];	/* Main, then the spares by their numbers */
	__u8 reserved[20];	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* The replacement of main that is under way. All zero, its checksum too, where there has never been one. */
struct remap4_replacement {
	__u8 attempt[16];	/* Which attempt it is, drawn at random; zero where none is under way */
	__u8 reserved[12];	/* zero */
	__le32 crc;	/* Over the bytes before it */
} __attribute__((packed));

/* The checksums over more than one structure. */
struct remap4_checksums {
	__le32 group[REMAP4_GROUPS];	/* Over the checksums of each group's structures */
	__u8 reserved[4];	/* zero */
	__le32 whole;	/* Over the whole header before it */
} __attribute__((packed));

/* A header: the first block of every copy. */
struct remap4_header {
	struct remap4_identification identification;	/* What this is */
	struct remap4_version version;	/* Which state */
	struct remap4_set set;	/* Which set */
	struct remap4_features features;	/* What a reader must understand */
	struct remap4_shape shape;	/* The shape of the table */
	struct remap4_fingerprint main;	/* Of main */
	struct remap4_fingerprint fingerprints[REMAP4_MAX_SPARES];	/* Of the spares */
	struct remap4_spare spares[REMAP4_MAX_SPARES];	/* State of the spares */
	struct remap4_line line;	/* The table line */
	struct remap4_settings settings;	/* The settings */
	struct remap4_assembly assembly;	/* What assembly goes by */
	struct remap4_statistics statistics;	/* Lifetime counts */
	struct remap4_scan scan;	/* How far the scan is */
	struct remap4_health health;	/* What the health of the devices is reckoned from */
	struct remap4_replacement replacement;	/* The replacement of main that is under way */
	struct remap4_fingerprint new_main;	/* Of the device that is to be main; zero where none is, or nothing is known of it */
	struct remap4_fingerprint old_main;	/* Of the device that was main before; zero where there was none */
	__u8 reserved[112];	/* zero */
	struct remap4_checksums checksums;	/* Checksums over groups and the whole */
} __attribute__((packed));

/* The first 64 bytes of a table block. */
struct remap4_block_header {
	__le32 crc;	/* Over the 4092 bytes behind it */
	__u8 magic[4];	/* `DR4B` */
	__u8 set_uuid[16];	/* Of the set */
	__le32 index;	/* Which block of the table this is */
	__le16 count;	/* Entries in use */
	__le16 kind;	/* What the entries are: 0, which is what the table has */
	__le64 version;	/* The version whose commit wrote it */
	__u8 reserved[24];	/* zero */
} __attribute__((packed));

/* An entry: 16 bytes. */
struct remap4_entry {
	__le64 main;	/* 16..64 first sector on main; 0..16 length in sectors, low bits */
	__le64 place;	/* 16..64 first sector on the spare; 12..16 spare; 8..12 kind; 0..8 length, high bits */
} __attribute__((packed));

enum remap4_entry_kind {
	REMAP4_ENTRY_UNUSED = 0,
	REMAP4_ENTRY_REMAPPED = 1,
	REMAP4_ENTRY_PENDING = 2,
	REMAP4_ENTRY_RETIRED = 3,
	REMAP4_ENTRY_SUSPECT = 4,
	REMAP4_ENTRY_LOST = 5,
};

/* A table block. */
struct remap4_block {
	struct remap4_block_header header;
	struct remap4_entry entry[REMAP4_BLOCK_ENTRIES];
} __attribute__((packed));

#endif
